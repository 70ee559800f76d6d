_base_ = './mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'

# The learned tables stay those of window 7; attention runs in windows of 12.
model = dict(backbone=dict(window_size=12, table_window_size=7))
