# COCO's boxes at random scales and crops: the augmentation of DETR and Sparse R-CNN, and of Swin's 3x schedules.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'

scales = [(side, 1333) for side in range(480, 801, 32)]
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[[dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
                    [
                        dict(
                            type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)],
                            keep_ratio=True),
                        dict(
                            type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600),
                            allow_negative_crop=True),
                        dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
                    ]]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
