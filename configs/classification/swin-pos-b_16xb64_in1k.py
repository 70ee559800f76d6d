_base_ = './swin-pos-t_16xb64_in1k.py'

model = dict(
    backbone=dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), drop_path_rate=0.5),
    head=dict(in_channels=1024))
