# Swin-T with position='rope_mixed' (RoPE-ViT, mixed learnable frequencies); from random weights, see README.md.
_base_ = '../swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
model = dict(backbone=dict(init_cfg=None, position='rope_mixed'))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(rope_freqs=dict(decay_mult=0.))))
