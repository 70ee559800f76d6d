_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/fast_training.py']

custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)
model = dict(backbone=dict(type='SwinPosTransformer'))
default_hooks = dict(checkpoint=dict(save_best='auto'))
