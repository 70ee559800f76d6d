# MMDetection trains this model with SGD.
_base_ = ['mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/fast_training.py']

custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)
model = dict(backbone=dict(type='SwinPosTransformer'))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
        relative_position_bias_table=dict(decay_mult=0.), absolute_pos_embed=dict(decay_mult=0.))))
default_hooks = dict(checkpoint=dict(save_best='auto'))
