# ImageNet-1K at 384 px, fine-tuned as the Swin authors do (paper, A2.1): 30 epochs, 1024 images per iteration, a
# constant learning rate of 1e-5, weight decay 1e-8.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_384.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py', 'mmpretrain::_base_/default_runtime.py'
]

optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8), clip_grad=dict(max_norm=5.))
param_scheduler = []
train_cfg = dict(max_epochs=30)
