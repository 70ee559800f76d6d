"""Tiny detectors of each kind that can be exported, with random weights that find something."""
from __future__ import annotations

from typing import Any, Tuple

import torch
from mmdet.registry import MODELS as REGISTRY
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import Tensor, nn

from swin_pos_det.apis import build_detector
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from tests.models import randomise

CLASSES = ('cat', 'dog', 'cow')
PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True,
                    pad_mask=True, pad_size_divisor=32)
BACKBONE = dict(type='SwinPosTransformer', embed_dims=8, depths=(2, 1), num_heads=(1, 2), strides=(4, 2), mlp_ratio=2,
                out_indices=(0, 1), drop_path_rate=0.)
NECK = dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=2)
ANCHORS = dict(type='AnchorGenerator', strides=[4, 8], ratios=[0.5, 1.], scales=[4])
CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
RPN = dict(type='RPNHead', in_channels=8, feat_channels=8, anchor_generator=ANCHORS, bbox_coder=CODER)
BOX_HEAD = dict(type='Shared2FCBBoxHead', in_channels=8, fc_out_channels=16, roi_feat_size=3, num_classes=3,
                bbox_coder=CODER)
MASK_HEAD = dict(type='FCNMaskHead', num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)
RPN_TEST = dict(nms_pre=60, max_per_img=40, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
TEST = dict(score_thr=0.3, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]


def _extractor(size: int) -> dict:
    return dict(type='SingleRoIExtractor', out_channels=8, featmap_strides=[4, 8], finest_scale=16,
                roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0))


def _two_stage(kind: str, roi: dict, masks: bool) -> dict:
    if masks:
        roi = dict(roi, mask_roi_extractor=_extractor(4), mask_head=MASK_HEAD)
    return dict(type=kind, backbone=BACKBONE, neck=NECK, rpn_head=RPN, roi_head=roi, train_cfg=None,
                test_cfg=dict(rpn=RPN_TEST, rcnn=dict(TEST, mask_thr_binary=0.5)))


def _dense(kind: str, head: dict) -> dict:
    return dict(type=kind, backbone=BACKBONE, neck=NECK, bbox_head=dict(
        num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1, **head),
        test_cfg=dict(TEST, nms_pre=150, min_bbox_size=0))


STANDARD = dict(type='StandardRoIHead', bbox_roi_extractor=_extractor(3), bbox_head=BOX_HEAD)
MODELS = dict(
    mask_rcnn=_two_stage('MaskRCNN', STANDARD, True),
    faster_rcnn=_two_stage('FasterRCNN', STANDARD, False),
    cascade_mask_rcnn=_two_stage('CascadeRCNN', dict(
        type='CascadeRoIHead', num_stages=2, stage_loss_weights=[1., 0.5], bbox_roi_extractor=_extractor(3),
        bbox_head=[dict(BOX_HEAD, reg_class_agnostic=True), BOX_HEAD]), True),
    retinanet=_dense('RetinaNet', dict(type='RetinaHead', bbox_coder=CODER, anchor_generator=dict(
        type='AnchorGenerator', strides=[4, 8], ratios=[0.5, 1.], octave_base_scale=4, scales_per_octave=1))),
    atss=_dense('ATSS', dict(type='ATSSHead', bbox_coder=CODER, anchor_generator=dict(
        type='AnchorGenerator', strides=[4, 8], ratios=[1.], octave_base_scale=4, scales_per_octave=1),
        norm_cfg=dict(type='GN', num_groups=2))))


# Changes of each kind to a single feature map of stride 4, for files: a graph of a third of the size.
ONE_LEVEL = dict(backbone=dict(depths=(2, ), num_heads=(2, ), strides=(4, ), out_indices=(0, )),
                 neck=dict(in_channels=[8], num_outs=1))
_ONE_EXTRACTOR = dict(featmap_strides=[4])
ONE_LEVEL_HEADS = dict(
    faster_rcnn=dict(rpn_head=dict(anchor_generator=dict(strides=[4])), roi_head=dict(
        bbox_roi_extractor=_ONE_EXTRACTOR)),
    cascade_mask_rcnn=dict(rpn_head=dict(anchor_generator=dict(strides=[4])), roi_head=dict(
        bbox_roi_extractor=_ONE_EXTRACTOR, mask_roi_extractor=_ONE_EXTRACTOR)),
    retinanet=dict(bbox_head=dict(anchor_generator=dict(strides=[4]))),
    atss=dict(bbox_head=dict(anchor_generator=dict(strides=[4]))))


# Every position scheme, joined where they can be: the time of an export grows faster than the number of backbones.
SCHEMES = {SwinPosTransformer: ('relative_only', 'absolute+peg+relative', 'linear_cpb+rope_axial'),
           SwinPosTransformerV2: ('none', 'log_cpb+rope_mixed')}


@REGISTRY.register_module()
class SumOfBackbones(BaseModule):
    """Add the feature maps of a block of each of :data:`SCHEMES`, so that one graph holds them all.

    Args:
        paddings: of Swin V1 and of V2.
    """

    def __init__(self, paddings: Tuple[str, str], **settings: Any) -> None:
        super().__init__()
        self.each = nn.ModuleList(kind(position=scheme, padding=padding, **settings)
                                  for (kind, schemes), padding in zip(SCHEMES.items(), paddings) for scheme in schemes)

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """(B, 3, H, W) -> one feature map."""
        return (sum(backbone(images)[0] for backbone in self.each) / len(self.each)**0.5, )


def one_level(kind: str, **model: Any) -> nn.Module:
    """Return :func:`tiny_detector` with one feature map."""
    cfg = Config(dict(model=ONE_LEVEL))
    for change in (ONE_LEVEL_HEADS[kind], model):
        cfg.merge_from_dict(dict(model=change))
    return tiny_detector(kind, **cfg.model.to_dict())


def tiny_config(kind: str, **model: Any) -> Config:
    """Return a config of :data:`MODELS`, with changes of its model."""
    cfg = Config(dict(default_scope='mmdet', model=dict(MODELS[kind], data_preprocessor=PREPROCESSOR),
                      test_dataloader=dict(dataset=dict(type='CocoDataset', pipeline=PIPELINE, ann_file='none.json',
                                                        metainfo=dict(classes=CLASSES)))))
    cfg.merge_from_dict(dict(model=model))
    return cfg


def tiny_detector(kind: str, **model: Any) -> nn.Module:
    """Return a detector of :data:`MODELS`, with changes of its model and random weights."""
    detector = build_detector(tiny_config(kind, **model), None)
    torch.manual_seed(0)
    randomise(detector)
    for name, parameter in detector.named_parameters():
        if name.endswith(('_cls.weight', 'conv_logits.weight', 'rpn_reg.weight', 'fc_reg.weight')):
            nn.init.normal_(parameter, std=3 * parameter[0].numel()**-.5)
    return detector.eval()
