"""The assigner without a loop gives what mmdet's gives."""
from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData

from swin_pos_det.models import VectorizedMaxIoUAssigner

SETTINGS = [
    dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True, ignore_iof_thr=-1),  # RPN
    dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False, ignore_iof_thr=-1),  # RCNN
    dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=0.5),  # RetinaNet
    dict(pos_iou_thr=0.6, neg_iou_thr=(0.1, 0.4), min_pos_iou=0.1, gt_max_assign_all=False),
]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(SETTINGS), st.integers(0, 6), st.integers(0, 40), st.integers(0, 10**6), st.integers(1, 10))
def test_equal_to_mmdets(setting, objects, boxes, seed, steps):
    """``steps``: overlaps are drawn on so coarse a grid that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    overlaps = torch.randint(-1, steps + 1, (objects, boxes), generator=generator) / steps
    labels = torch.randint(0, 80, (objects, ), generator=generator)
    ours, theirs = (kind(**setting).assign_wrt_overlaps(overlaps.clone(), labels)
                    for kind in (VectorizedMaxIoUAssigner, MaxIoUAssigner))
    for name in ('gt_inds', 'max_overlaps', 'labels'):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.num_gts == theirs.num_gts


@pytest.mark.parametrize('setting', SETTINGS)
def test_on_boxes_with_ignored_regions(setting):
    torch.manual_seed(0)

    def boxes(count: int) -> torch.Tensor:
        corner = torch.rand(count, 2) * 60
        return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], 1)

    priors, objects = InstanceData(priors=boxes(300)), InstanceData(bboxes=boxes(9), labels=torch.arange(9))
    ignored = InstanceData(bboxes=boxes(2))
    results = [TASK_UTILS.build(dict(setting, type=kind)).assign(priors, objects, ignored)
               for kind in ('VectorizedMaxIoUAssigner', 'MaxIoUAssigner')]
    assert torch.equal(results[0].gt_inds, results[1].gt_inds)
    assert torch.equal(results[0].labels, results[1].labels)
    assert (results[0].gt_inds > 0).any()
