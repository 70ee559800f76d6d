# mmpretrain's Swin-T recipe: ImageNet-1K from scratch, 224 px, 300 epochs, 16 GPUs with 64 images each.
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

# 'fit': a map of one window is not shifted, as in mmpretrain.
model = dict(backbone=dict(_delete_=True, type='mmdet.SwinPosTransformer', out_indices=(3, ), window_policy='fit',
                           drop_path_rate=0.2))
