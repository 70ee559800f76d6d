# Windows of 32 with the weights of 16: the network behind the bias is evaluated at offsets that it has not seen.
_base_ = './mask-rcnn_swinv2-pos-b-p4-w16_fpn_1x_coco.py'
model = dict(backbone=dict(window_size=32))
