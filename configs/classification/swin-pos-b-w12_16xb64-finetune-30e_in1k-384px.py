_base_ = './swin-pos-t-w12_16xb64-finetune-30e_in1k-384px.py'

model = dict(
    backbone=dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.5),
    head=dict(in_channels=1024))
load_from = 'https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_base_224_b16x64_300e_imagenet_20210616_190742-93230b0d.pth'
