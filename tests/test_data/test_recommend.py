"""Image size and anchors for objects whose best ones are known."""
from __future__ import annotations

import numpy as np
import pytest

from swin_pos_det.data.recommend import choose_anchor_scale, choose_image_size, resize_factors

BASE = (1333, 800)


@pytest.mark.parametrize(('size', 'side', 'expected'), [
    ((600, 800), 100, (800, 608)),       # as the images are, in multiples of 32
    ((3000, 4000), 400, (1056, 800)),    # not above the config's
    ((60, 80), 30, (544, 416)),          # not below half of it
    ((3000, 4000), 50, (1280, 960)),     # larger, so that a side of 50 px becomes 16
    ((3000, 4000), 10, (1632, 1216)),    # but no more than 1.5 times
    ((500, 5000), 100, (1024, 512)),     # no longer than 2 to 1
])
def test_image_size(size, side, expected):
    sizes, sides = np.array([size] * 5, float), np.full(20, float(side))
    chosen, why = choose_image_size(sizes, sides, BASE)
    assert chosen == expected
    assert f'{size[1]} x {size[0]}' in why and f'under {side} px' in why


@pytest.mark.parametrize(('side', 'scales'), [(16, (1, 2, 4)), (40, (8, )), (1000, (16, )), (4, (1, ))])
def test_anchor_scale(side, scales):
    """Strides 4 to 64 with scale 8 have squares of 32, 64, ... 512 px."""
    boxes = np.full((10, 2), float(side))
    scale, why = choose_anchor_scale(boxes, np.ones(10), [4, 8, 16, 32, 64], [0.5, 1., 2.], 8)
    sides = scale * np.array([4, 8, 16, 32, 64])
    iou = (np.minimum(sides, side) / np.maximum(sides, side)).max()**2
    assert f'IoU of {iou:.2f}' in why
    assert scale in scales
    assert ("the config's own" if scale == 8 else "the config's 8 has") in why


def test_resizing_counts():
    sizes = np.array([[100., 200.], [400., 300.]])
    factors = resize_factors(sizes, (400, 300))
    assert factors.tolist() == [2., 1.]
    scale, _ = choose_anchor_scale(np.full((2, 2), 32.), factors / 8, [4, 8, 16, 32, 64], [1.], 8)
    assert scale in (1, 2)
