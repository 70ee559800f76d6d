_base_ = './mask-rcnn_swin-pos-b-p4-w7_fpn_rpn-2conv_4conv1fc_ln-all_amp-lsj-50e_coco.py'

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth'
model = dict(backbone=dict(init_cfg=dict(checkpoint=pretrained)))
