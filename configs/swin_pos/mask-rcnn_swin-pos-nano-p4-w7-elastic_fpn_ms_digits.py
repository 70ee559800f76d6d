# The demo, trained for windows from 4 to 14 and at random resolutions, drawn independently of each other.
_base_ = './mask-rcnn_swin-pos-nano-p4-w7_fpn_ms_digits.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14], nominal_share=0.4)
]
