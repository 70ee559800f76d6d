# ViTDet's recipe for hierarchical backbones (https://arxiv.org/abs/2203.16527; detectron2's projects/ViTDet): images of
# 1024 x 1024 px jittered from 0.1 to 2 times in scale, 50 epochs, batches of 64, layer norm in neck and heads, two
# convolutions in the RPN, four and one fully connected layer in the box head. 25 epochs here see each image twice.
_base_ = 'mmdet::strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco.py'
custom_imports = dict(imports=['swin_pos_det'], allow_failed_imports=False)

norm_cfg = dict(type='LayerNorm2d', eps=1e-6)
head_norm_cfg = norm_cfg
model = dict(
    # Every image is padded to 1024 x 1024, in evaluation too.
    data_preprocessor=dict(pad_size_divisor=1024),
    neck=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
    roi_head=dict(
        bbox_head=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
        mask_head=dict(norm_cfg=dict(_delete_=True, **norm_cfg))))

test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1024, 1024), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The learning rate of detectron2's Swin configs, for a batch of 64: with 2 images on each of 8 GPUs, --auto-scale-lr.
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.), absolute_pos_embed=dict(decay_mult=0.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=25, by_epoch=True, milestones=[22, 24], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(checkpoint=dict(save_best='auto'))
