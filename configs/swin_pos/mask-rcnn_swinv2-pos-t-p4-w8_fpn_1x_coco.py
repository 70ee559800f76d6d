# Swin V2-T; its weights were trained with windows of 8 on images of 256 px.
_base_ = './mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/swinv2_tiny_patch4_window8_256.pth'
model = dict(backbone=dict(type='SwinPosTransformerV2', window_size=8, init_cfg=dict(checkpoint=pretrained)))
free = dict(decay_mult=0.)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cpb_mlp=free, logit_scale=free)))
