# The demo, trained at random resolutions from half to twice its own; the large ones, being slow, are rarer.
_base_ = './mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile', backend_args=None),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='RandomChoiceResize',
                scales=[(side, side) for side in (128, 128, 181, 181, 256, 256, 362, 512)],
                keep_ratio=True),
            dict(type='PackDetInputs'),
        ]))
