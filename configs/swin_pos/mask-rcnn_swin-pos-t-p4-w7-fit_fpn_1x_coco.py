# Swin-T with windows chosen, per axis and map, for the least padding.
_base_ = './mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'
model = dict(backbone=dict(window_policy='fit'))
