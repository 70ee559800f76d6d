# Swin-T, trained at 224 px with windows of 7, fine-tuned at 384 px with windows of 12: its bias tables are resampled.
_base_ = ['mmpretrain::_base_/models/swin_transformer/tiny_224.py', '../_base_/imagenet_finetune-30e_384px.py']
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

model = dict(backbone=dict(_delete_=True, type='mmdet.SwinPosTransformer', window_size=12, out_indices=(3, ),
                           window_policy='fit', drop_path_rate=0.2))
load_from = 'https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'
