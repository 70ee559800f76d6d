# Swin-T trained for windows from 4 to 14: each iteration draws one, two in five times the nominal 7.
_base_ = './mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14], nominal_share=0.4)
]
