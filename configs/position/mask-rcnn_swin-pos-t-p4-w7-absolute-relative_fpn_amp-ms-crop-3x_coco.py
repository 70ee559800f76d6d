# Swin-T with position='absolute+relative' (Swin's table 4, 'abs.+rel. pos.'); from random weights, see README.md.
_base_ = '../swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
model = dict(backbone=dict(init_cfg=None, position='absolute+relative'))
