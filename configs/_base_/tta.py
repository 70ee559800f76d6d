# Test-time augmentation for tools/test.py --tta: three sizes, each as it is and flipped. Boxes of all views go through
# one NMS; masks are the mean of the views' probabilities.
tta_model = dict(
    type='SwinPosTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale=scale, keep_ratio=True) for scale in [(1333, 800), (1333, 640), (1600, 960)]],
            [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                               'flip_direction'))
            ],
        ]),
]
