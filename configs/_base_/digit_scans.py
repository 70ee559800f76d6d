# scikit-learn's handwritten digits for mmpretrain, at 56 px, and a schedule of 10 epochs for a CPU.
# A config that builds on this one needs custom_imports = dict(imports=['swin_pos_det']).
_base_ = 'mmpretrain::_base_/default_runtime.py'

data_preprocessor = dict(num_classes=10, mean=[127.5], std=[127.5])

resize = dict(type='Resize', scale=56, interpolation='bicubic')
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.DigitScansDataset',
        split='train',
        pipeline=[resize, dict(type='RandomCrop', crop_size=56, padding=4),
                  dict(type='PackInputs')]))
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet.DigitScansDataset', split='val', test_mode=True, pipeline=[resize, dict(type='PackInputs')]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1, ))

train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
val_cfg = test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.))),
    clip_grad=dict(max_norm=5.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=45),
    dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min=1e-5),
]
default_hooks = dict(logger=dict(interval=15), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
