"""The extractor that sorts regions by level gives features and gradients of mmdet's, to the last bit."""
from __future__ import annotations

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

from swin_pos_det.models import VectorizedSingleRoIExtractor


@pytest.mark.parametrize('sides', [(8, 400), (8, 40), (300, 400), None])
def test_equal_to_mmdets(sides):
    """``sides``: from and to, in pixels, so that all levels have regions, or some; None: no region."""
    torch.manual_seed(0)
    corner, side = torch.rand(30, 2) * 50, torch.empty(30, 1).uniform_(*(sides or (1, 2)))
    rois = torch.cat([torch.arange(30)[:, None] % 2, corner, corner + side], 1)[:30 if sides else 0]
    found = []
    for kind in (SingleRoIExtractor, VectorizedSingleRoIExtractor):
        torch.manual_seed(1)
        extractor = kind(dict(type='RoIAlign', output_size=3, sampling_ratio=0), 4, [4, 8, 16, 32])
        feats = [torch.randn(2, 4, 128 // stride, 128 // stride).requires_grad_() for stride in (4, 8, 16, 32)]
        out = extractor(tuple(feats), rois)
        if sides:
            (out * torch.randn(out.shape)).sum().backward()
        found.append([out, *(feat.grad for feat in feats)])
    for one, other in zip(*found):
        assert (one is None) is (other is None)
        assert one is None or torch.equal(one, other)
