# The embedded digits on photographs for mmsegmentation, two classes, and a schedule of 6 epochs for a CPU.
# A config that builds on this one needs custom_imports = dict(imports=['swin_pos_det']).
_base_ = 'mmseg::_base_/default_runtime.py'

crop_size = (128, 128)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.DigitsOnPhotosSegDataset',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='mmdet.LoadDigitsSegMap'),
            dict(type='RandomCrop', crop_size=crop_size),
            dict(type='PackSegInputs'),
        ]))
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet.DigitsOnPhotosSegDataset',
        split='val',
        test_mode=True,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmdet.LoadDigitsSegMap'), dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])

train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=3)
val_cfg = test_cfg = dict()
log_processor = dict(by_epoch=True)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.))),
    clip_grad=dict(max_norm=1.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=30),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'))
randomness = dict(seed=0)
