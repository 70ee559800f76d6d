"""Targets of all images at once are those of mmdet's box head."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmengine.config import ConfigDict

from swin_pos_det.models.box_targets import box_targets, has_mmdets_targets

SETTINGS = dict(in_channels=2, fc_out_channels=2, roi_feat_size=1, num_classes=5)


class OwnTargets(Shared2FCBBoxHead):
    def _get_targets_single(self, *args, **kwargs):
        raise NotImplementedError('a head that overrides it must be recognised without a call')


def sampled(positive: int, negative: int) -> SimpleNamespace:
    corner = torch.rand(2 * positive + negative, 2) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(len(corner), 2) * 40], 1)
    return SimpleNamespace(pos_priors=boxes[:positive], pos_gt_bboxes=boxes[positive:2 * positive],
                           neg_priors=boxes[2 * positive:], pos_gt_labels=torch.randint(5, (positive, )))


@pytest.mark.parametrize('pos_weight', [-1, 2.])
@pytest.mark.parametrize('counts', [[(3, 5), (1, 4)], [(0, 6), (2, 0)], [(0, 3)], [(4, 2), (4, 2), (1, 0)]])
def test_equal_to_mmdets(counts, pos_weight):
    torch.manual_seed(0)
    head, cfg = Shared2FCBBoxHead(**SETTINGS), ConfigDict(pos_weight=pos_weight)
    results = [sampled(*pair) for pair in counts]
    assert has_mmdets_targets(head)
    for one, other in zip(box_targets(head, results, cfg), head.get_targets(results, cfg)):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_heads_with_targets_of_their_own_are_left_alone():
    assert not has_mmdets_targets(OwnTargets(**SETTINGS))
    assert not has_mmdets_targets(Shared2FCBBoxHead(reg_decoded_bbox=True, **SETTINGS))
    assert not has_mmdets_targets(torch.nn.Linear(1, 1))
