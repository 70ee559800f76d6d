# Swin-T with position='peg' (CPVT's position encoding generator); from random weights, see README.md.
_base_ = '../swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
model = dict(backbone=dict(init_cfg=None, position='peg'))
