# Cascade Mask R-CNN as in the Swin paper's table 2: GIoU loss, four convolutions and one fully connected layer in each
# box head, 36 epochs at random scales and crops. MMDetection has all of it in its ConvNeXt config, which took it over.
# The box heads' SyncBN is the authors'; without GPUs, tools/ train several processes with plain BN (engine/sync_bn.py).
_base_ = 'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'
custom_imports = dict(_delete_=True, imports=['swin_pos_det'], allow_failed_imports=False)

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.), absolute_pos_embed=dict(decay_mult=0.))))
default_hooks = dict(checkpoint=dict(save_best='auto'))
