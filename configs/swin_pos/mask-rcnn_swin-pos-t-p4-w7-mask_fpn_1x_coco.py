# Swin-T with padding hidden from attention, that of the windows and that of the batch.
_base_ = './mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'
model = dict(data_preprocessor=dict(type='SwinPosDataPreprocessor'), backbone=dict(padding='mask'))
