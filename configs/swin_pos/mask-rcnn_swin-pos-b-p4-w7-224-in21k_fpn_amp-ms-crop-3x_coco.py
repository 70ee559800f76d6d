_base_ = './mask-rcnn_swin-pos-b-p4-w7_fpn_amp-ms-crop-3x_coco.py'

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth'
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
