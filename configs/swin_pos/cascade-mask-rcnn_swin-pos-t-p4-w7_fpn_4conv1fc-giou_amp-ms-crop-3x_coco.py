_base_ = ['../_base_/cascade-mask-rcnn_4conv1fc-giou_amp-ms-crop-3x.py', '../_base_/fast_training.py']

checkpoint_file = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinPosTransformer',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint_file)))
