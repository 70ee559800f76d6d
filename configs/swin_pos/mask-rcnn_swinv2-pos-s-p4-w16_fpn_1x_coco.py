# Windows of 16; in the last stage, whose map has 8 x 8 tokens in an image of 256 px, the weights were trained with 8.
_base_ = './mask-rcnn_swinv2-pos-s-p4-w8_fpn_1x_coco.py'

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_small_patch4_window16_256.pth'
model = dict(
    backbone=dict(window_size=16, pretrained_window_sizes=[16, 16, 16, 8], init_cfg=dict(checkpoint=pretrained)))
