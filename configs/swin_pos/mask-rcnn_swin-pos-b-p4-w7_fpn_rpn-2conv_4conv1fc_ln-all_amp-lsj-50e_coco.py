_base_ = ['../_base_/mask-rcnn_rpn-2conv_4conv1fc_ln-all_amp-lsj-50e.py', '../_base_/fast_training.py']

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth'
backbone = dict(
    type='SwinPosTransformer', embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], drop_path_rate=0.4,
    init_cfg=dict(type='Pretrained', checkpoint=pretrained))
model = dict(backbone=dict(_delete_=True, **backbone), neck=dict(in_channels=[128, 256, 512, 1024]))
