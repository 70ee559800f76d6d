"""The vectorized RPN head gives losses, gradients and proposals of mmdet's, to the last bit."""
from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from swin_pos_det.models import VectorizedRPNHead
from swin_pos_det.models.rpn_head import can_be_vectorized

SIZE = (96, 128)
STRIDES = (4, 8, 16, 32, 64)
CASES = {
    'mask_rcnn': {},
    'smooth_l1': dict(loss_bbox=dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=0.5)),
    'weighted': dict(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=0.3)),
    'border': dict(allowed_border=0),
    'padded': dict(pad_shape=(64, 96)),
    'no_objects': dict(objects=0),
    'few': dict(nms_pre=20, max_per_img=7, min_bbox_size=6),
    'soft': dict(nms=dict(type='soft_nms', iou_threshold=0.7)),
    'unclipped': dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False)),
    'pseudo_sampler': dict(sampler=dict(type='PseudoSampler')),
}
OTHERWISE = {
    'decoded': dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')),
    'focal': dict(loss_cls=dict(type='FocalLoss', use_sigmoid=True)),
    'pos_weight': dict(pos_weight=2.),
}


def build(case: dict) -> tuple[RPNHead, list[DetDataSample]]:
    torch.manual_seed(1)
    case, images = dict(case), []
    cfg = ConfigDict(
        assigner=dict(type='VectorizedMaxIoUAssigner', pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.3,
                      ignore_iof_thr=-1),
        sampler=case.pop('sampler', dict(type='RandomSampler', num=40, pos_fraction=0.2, add_gt_as_proposals=False)),
        allowed_border=case.pop('allowed_border', -1), pos_weight=case.pop('pos_weight', -1))
    proposals = ConfigDict(nms_pre=case.pop('nms_pre', 300), max_per_img=case.pop('max_per_img', 100),
                           nms=case.pop('nms', dict(type='nms', iou_threshold=0.7)),
                           min_bbox_size=case.pop('min_bbox_size', 0))
    pad_shape, objects = case.pop('pad_shape', SIZE), case.pop('objects', 4)
    for shape in (SIZE, pad_shape):
        corner = torch.rand(objects, 2) * 50
        sample = DetDataSample(metainfo=dict(img_shape=(shape[0] - 3, shape[1] - 7), pad_shape=shape))
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + 8 + torch.rand(objects, 2) * 30], 1),
                                           labels=torch.zeros(objects, dtype=torch.long))
        images.append(sample)
    head = RPNHead(**dict(dict(
        in_channels=6, feat_channels=8, train_cfg=cfg, test_cfg=proposals, loss_bbox=dict(type='L1Loss'),
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1., 2.], strides=STRIDES)), **case))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head, images


def run(head: RPNHead, images: list[DetDataSample]) -> list:
    """Return what is to be the same: losses, gradients, proposals, random numbers, proposals of a test."""
    torch.manual_seed(2)
    features = [torch.randn(len(images), 6, -(-SIZE[0] // s), -(-SIZE[1] // s)).requires_grad_() for s in STRIDES]
    losses, proposals = head.loss_and_predict(features, copy.deepcopy(images), head.test_cfg)
    totals = {name: sum(loss.mean() for loss in values) for name, values in losses.items()}
    (sum(totals.values()) * 3).backward()
    gradients = [each.grad for each in [*features, *head.parameters()]]
    with torch.no_grad():
        tested = head.predict(features, images, rescale=False)
    found = [value for result in [*proposals, *tested] for _, value in sorted(result.items())]
    return [*totals.values(), *gradients, *found, torch.rand(2)]


def same(case: dict) -> RPNHead:
    head, images = build(case)
    fast = copy.deepcopy(head)
    fast.__class__ = VectorizedRPNHead
    for one, other in zip(run(fast, images), run(head, images)):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    return head


@pytest.mark.parametrize('name', CASES)
def test_equal_to_mmdets(name):
    assert can_be_vectorized(same(CASES[name]))


def test_scores_at_the_end_of_a_level_are_mmdets_to_the_last_bit():
    torch.manual_seed(0)
    head, images = build(dict(nms_pre=-1, max_per_img=10 ** 6, nms=dict(type='nms', iou_threshold=1.)))
    fast = copy.deepcopy(head)
    fast.__class__ = VectorizedRPNHead
    metas = [image.metainfo for image in images]
    sizes = [(5, 7), (3, 3), (3, 3), (1, 5), (1, 1)]  # few of them fill vectors of a CPU
    for _ in range(20):
        maps = [[torch.randn(2, channels, *size) for size in sizes] for channels in (3, 12)]
        for one, other in zip(*(each.predict_by_feat(*maps, batch_img_metas=metas) for each in (fast, head))):
            assert torch.equal(one.scores, other.scores) and torch.equal(one.bboxes, other.bboxes)


@pytest.mark.parametrize('name', OTHERWISE)
def test_other_settings_take_mmdets_way(name):
    assert not can_be_vectorized(same(OTHERWISE[name]))


def test_an_image_smaller_than_any_anchor():
    head, images = build(dict(allowed_border=0))
    images[1].set_metainfo(dict(img_shape=(3, 3)))
    head.__class__ = VectorizedRPNHead
    with pytest.raises(ValueError, match='no valid anchor inside the image'):
        run(head, images)


def test_anchors_are_kept_for_one_size():
    head, images = build({})
    head.__class__ = VectorizedRPNHead
    with torch.inference_mode():
        head.predict([torch.randn(2, 6, SIZE[0] // s, SIZE[1] // s) for s in STRIDES], images)
    run(head, images)  # a tensor made in inference mode could not be used here
    head.predict([torch.randn(1, 6, 64 // s, 64 // s) for s in STRIDES], images[:1])
    assert len(head._kept_anchors) == 1
