"""Suppression that stops early keeps the boxes that mmcv's keeps."""
from __future__ import annotations

import mmcv.ops
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swin_pos_det.ops.nms import CHUNK, can_run, nms


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3 * CHUNK), st.sampled_from([0.25, 1 / 3, 0.5, 0.7]), st.sampled_from([1, 3, CHUNK, 1000]),
       st.integers(2, 40), st.integers(0, 10**6))
def test_equal_to_mmcvs(number, threshold, count, steps, seed):
    """``steps``: boxes and scores are drawn on so coarse a grid that many are equal, and some boxes are empty."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randint(0, steps, (number, 4), generator=generator).float()
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.randint(0, steps, (number, ), generator=generator) / steps
    expected = mmcv.ops.nms(boxes, scores, threshold)[1]
    assert torch.equal(nms(boxes, scores, threshold, count), expected[:count])


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_mmcv(dtype):
    assert can_run(torch.zeros(1, 4), torch.zeros(1))
    assert not can_run(torch.zeros(1, 4, dtype=dtype), torch.zeros(1))
