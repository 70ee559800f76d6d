# Swin-T, trained at 224 px with windows of 7, fine-tuned at 384 px with windows of 12 as the Swin authors do
# (paper, A2.1): 30 epochs, 1024 images per iteration, a constant learning rate of 1e-5, weight decay 1e-8.
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/tiny_224.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_384.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py', 'mmpretrain::_base_/default_runtime.py'
]
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmdet.SwinPosTransformer',
        window_size=12,
        out_indices=(3, ),
        window_policy='fit',
        drop_path_rate=0.2))
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8), clip_grad=dict(max_norm=5.))
param_scheduler = []
train_cfg = dict(max_epochs=30)
# Its tables for windows of 7 are resampled bicubically when it is loaded.
load_from = 'https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'
