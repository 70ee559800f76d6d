# A nano Swin on scikit-learn's handwritten digits, for a CPU: trains in about a minute.
_base_ = ['mmpretrain::_base_/models/swin_transformer/tiny_224.py', '../_base_/digit_scans.py']
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

backbone = dict(_delete_=True, type='mmdet.SwinPosTransformer', embed_dims=32, depths=(2, 2, 2), num_heads=(1, 2, 4),
                strides=(4, 2, 2), out_indices=(2, ), window_policy='fit', drop_path_rate=0.)
model = dict(backbone=backbone, head=dict(num_classes=10, in_channels=128), train_cfg=None)
