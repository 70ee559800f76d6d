_base_ = [
    '../_base_/faster-rcnn_swin-pos-t_fpn_1x.py', '../_base_/coco_detection_ms-crop.py', '../_base_/fast_training.py'
]

train_cfg = dict(max_epochs=36)
optim_wrapper = dict(type='AmpOptimWrapper')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
