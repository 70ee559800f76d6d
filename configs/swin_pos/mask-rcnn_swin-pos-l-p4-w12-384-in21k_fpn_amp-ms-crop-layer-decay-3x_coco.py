# Early layers learn more slowly: by 0.9 a block, 0.9 ** 24 = 0.08 at the first. The rate is a start, not tuned.
_base_ = './mask-rcnn_swin-pos-l-p4-w12-384-in21k_fpn_amp-ms-crop-3x_coco.py'

optim_wrapper = dict(
    constructor='SwinLayerDecayOptimWrapperConstructor', paramwise_cfg=dict(_delete_=True, decay_rate=0.9))
