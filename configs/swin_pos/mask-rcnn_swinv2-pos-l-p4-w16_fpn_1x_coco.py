# Windows of 16 with weights of windows of 12.
_base_ = './mask-rcnn_swinv2-pos-l-p4-w8_fpn_1x_coco.py'
model = dict(backbone=dict(window_size=16))
