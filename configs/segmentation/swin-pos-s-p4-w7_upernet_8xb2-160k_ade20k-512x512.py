# mmsegmentation's UPerNet recipe with Swin-S: ADE20K, 160k iterations, 8 GPUs with 2 images each, ImageNet-1K weights.
_base_ = 'mmseg::swin/swin-small-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

model = dict(backbone=dict(type='mmdet.SwinPosTransformer'))
