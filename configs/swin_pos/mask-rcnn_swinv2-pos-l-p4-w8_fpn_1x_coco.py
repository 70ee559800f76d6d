# Swin V2-L, pretrained on ImageNet-22K with windows of 12 on images of 192 px: in the last stage, of 6.
_base_ = './mask-rcnn_swinv2-pos-t-p4-w8_fpn_1x_coco.py'

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_large_patch4_window12_192_22k.pth'
model = dict(
    backbone=dict(
        embed_dims=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], drop_path_rate=0.3,
        pretrained_window_sizes=[12, 12, 12, 6], init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[192, 384, 768, 1536]))
