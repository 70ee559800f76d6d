"""Non-maximum suppression on a CPU that stops once enough boxes are kept."""
from __future__ import annotations

from typing import List

import torch
from torch import Tensor

CHUNK = 62  # boxes compared at once with all others; their overlaps with one another are bits of an int64


def can_run(boxes: Tensor, scores: Tensor) -> bool:
    """Return whether these boxes and scores are on a CPU, in float32."""
    return all(each.device.type == 'cpu' and each.dtype == torch.float32 for each in (boxes, scores))


def nms(boxes: Tensor, scores: Tensor, threshold: float, count: int) -> Tensor:
    """Return the indices of the first boxes that greedy suppression keeps.

    The same boxes in the same order as the first ``count`` of ``mmcv.ops.nms``, with the same float32 arithmetic.

    Args:
        boxes: (N, 4) float32 x1, y1, x2, y2.
        scores: (N,) float32.
        threshold: a box is suppressed by a better one of larger IoU.
        count: stop after so many.

    Returns:
        (K,) int64 with K <= count, by descending scores.
    """
    order = scores.sort(descending=True).indices
    x1, y1, x2, y2 = boxes[order].t()
    sides = torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
    kept: List[Tensor] = []
    while len(order) and count > 0:
        size = min(CHUNK, len(order))
        overlaps = _ious(sides[:, :size, None], sides[:, None]) > threshold
        chosen = torch.tensor(_greedy(overlaps[:, :size])[:count])
        kept.append(order[chosen])
        count -= len(chosen)
        left = overlaps[chosen].any(0).logical_not_()
        left[:size] = False
        order, sides = order[left], sides[:, left]
    return torch.cat(kept) if kept else order


def _ious(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of boxes given as x1, y1, x2, y2, area along the first dimension."""
    width = (torch.minimum(one[2], other[2]) - torch.maximum(one[0], other[0])).clamp_(min=0)
    height = (torch.minimum(one[3], other[3]) - torch.maximum(one[1], other[1])).clamp_(min=0)
    common = width.mul_(height)
    return common / (one[4] + other[4]).sub_(common)


def _greedy(overlaps: Tensor) -> List[int]:
    """Return the kept of (C, C) boxes in order, C <= 62; (i, j) says whether i suppresses j."""
    bits = (overlaps.long() << torch.arange(len(overlaps))).sum(1).tolist()
    kept, gone = [], 0
    for number, suppressed in enumerate(bits):
        if not gone >> number & 1:
            kept.append(number)
            gone |= suppressed
    return kept
