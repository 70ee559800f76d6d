_base_ = './mask-rcnn_swin-pos-b-p4-w7_fpn_amp-ms-crop-3x_coco.py'

# Trained for windows of 12 on images of 384 px, so the tables are those of window 12.
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window12_384_22k.pth'
model = dict(backbone=dict(window_size=12, init_cfg=dict(checkpoint=pretrained)))
