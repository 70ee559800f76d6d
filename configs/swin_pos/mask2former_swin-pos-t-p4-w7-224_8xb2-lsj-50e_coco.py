_base_ = ['mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py', '../_base_/fast_training.py']

custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)
model = dict(backbone=dict(type='SwinPosTransformer'))
default_hooks = dict(checkpoint=dict(save_best='auto'))
