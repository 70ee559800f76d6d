# Swin-T with position='relative' (Swin V2's table 1, 'parameterized'); from random weights, see README.md.
_base_ = '../swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
model = dict(backbone=dict(init_cfg=None, window_size=8, position='relative'))
