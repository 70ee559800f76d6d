# The demo's model on a few COCO images, trained and evaluated on the same ones, to check that the pipeline learns.
# tools/analysis_tools/overfit_coco.py picks the images and writes the annotation file.
_base_ = './mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'

model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
resize = dict(type='Resize', scale=(384, 384), keep_ratio=True)
dataset = dict(
    type='CocoDataset',
    data_root='data/coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=25,
        dataset=dict(
            **dataset,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True), resize,
                dict(type='PackDetInputs')
            ])))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'), resize,
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        ],
        **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='CocoMetric',
    metric=['bbox', 'segm'],
    ann_file='data/coco/annotations/instances_train2017.json')
test_evaluator = val_evaluator
