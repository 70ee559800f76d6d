# A nano Swin with a thin UPerNet that finds the embedded digits on photographs, for a CPU: trains in two minutes.
_base_ = ['mmseg::_base_/models/upernet_swin.py', '../_base_/digits_on_photos_semantic.py']
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

backbone = dict(_delete_=True, type='mmdet.SwinPosTransformer', embed_dims=32, depths=(2, 2, 2, 2),
                num_heads=(1, 2, 4, 8), drop_path_rate=0.)
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}), backbone=backbone, auxiliary_head=None,
             decode_head=dict(in_channels=[32, 64, 128, 256], channels=32, num_classes=2, norm_cfg=dict(type='BN')))
