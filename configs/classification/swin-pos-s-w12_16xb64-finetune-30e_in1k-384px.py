_base_ = './swin-pos-t-w12_16xb64-finetune-30e_in1k-384px.py'

model = dict(backbone=dict(depths=(2, 2, 18, 2), drop_path_rate=0.3))
load_from = 'https://download.openmmlab.com/mmclassification/v0/swin-transformer/swin_small_224_b16x64_300e_imagenet_20210615_110219-7f9d988b.pth'
