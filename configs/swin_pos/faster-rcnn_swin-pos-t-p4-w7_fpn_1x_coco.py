_base_ = [
    '../_base_/faster-rcnn_swin-pos-t_fpn_1x.py', 'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/fast_training.py'
]
