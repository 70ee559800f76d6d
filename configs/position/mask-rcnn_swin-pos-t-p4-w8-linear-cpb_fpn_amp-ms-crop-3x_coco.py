# Swin-T with position='linear_cpb' (Swin V2's table 1, 'linear-spaced CPB'); from random weights, see README.md.
_base_ = '../swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
model = dict(backbone=dict(init_cfg=None, window_size=8, position='linear_cpb'))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cpb_mlp=dict(decay_mult=0.))))
