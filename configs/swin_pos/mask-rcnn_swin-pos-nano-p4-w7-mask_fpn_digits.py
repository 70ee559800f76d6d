# The demo with padding hidden from attention, that of the windows and that of the batch.
_base_ = './mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
model = dict(data_preprocessor=dict(type='SwinPosDataPreprocessor'), backbone=dict(padding='mask'))
