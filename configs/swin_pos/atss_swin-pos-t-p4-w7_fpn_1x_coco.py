_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/fast_training.py']

custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'
backbone = dict(type='SwinPosTransformer', out_indices=(1, 2, 3), drop_path_rate=0.2,
                init_cfg=dict(type='Pretrained', checkpoint=pretrained))
model = dict(backbone=dict(_delete_=True, **backbone), neck=dict(in_channels=[192, 384, 768], start_level=0))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
                     paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(
                         relative_position_bias_table=dict(decay_mult=0.), absolute_pos_embed=dict(decay_mult=0.))))
default_hooks = dict(checkpoint=dict(save_best='auto'))
