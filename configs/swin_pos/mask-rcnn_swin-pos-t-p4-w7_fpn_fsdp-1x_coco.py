_base_ = ['./mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py', '../_base_/fsdp.py']
