"""mmdet's assigner of boxes to objects without its loop over objects, which synchronizes with the device at each."""
from __future__ import annotations

from typing import Any, Dict, Optional

import torch
from mmdet.models.task_modules.assigners import AssignResult, BboxOverlaps2D, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class VectorizedBboxOverlaps2D(BboxOverlaps2D):
    """mmdet's ``BboxOverlaps2D`` with the same arguments and the same result, faster for IoU of all pairs.

    Coordinates come first in memory, so that a CPU works along the boxes and not along x and y.
    """

    def __call__(self, bboxes1: Tensor, bboxes2: Tensor, mode: str = 'iou', is_aligned: bool = False) -> Tensor:
        """Return overlaps.

        Args:
            bboxes1: (K, 4) x1, y1, x2, y2.
            bboxes2: (N, 4).
            mode: 'iou', 'iof' or 'giou'.
            is_aligned: pair the boxes one by one.

        Returns:
            (K, N), or (K,) if ``is_aligned``.
        """
        both = bboxes1, bboxes2
        simple = all(isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] == 4 and len(each) for each in both)
        if mode != 'iou' or is_aligned or self.dtype is not None or not simple:
            return super().__call__(bboxes1, bboxes2, mode, is_aligned)
        one, other = bboxes1.t().contiguous()[..., None], bboxes2.t().contiguous()[:, None]
        sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp_(min=0)
        common = sides[0].mul_(sides[1])
        return common / (_area(one) + _area(other)).sub_(common).clamp_(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    sides = boxes[2:] - boxes[:2]
    return sides[0] * sides[1]


@TASK_UTILS.register_module()
class VectorizedMaxIoUAssigner(MaxIoUAssigner):
    """mmdet's ``MaxIoUAssigner`` with the same arguments and the same result.

    Each step is one operation over all objects and boxes and never synchronizes with the device; mmdet's does so twice
    for each object and three more times.
    """

    def __init__(self, *args: Any, iou_calculator: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        super().__init__(*args, iou_calculator=iou_calculator or dict(type='VectorizedBboxOverlaps2D'), **kwargs)

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """Assign boxes by their overlaps.

        Args:
            overlaps: (K objects, N boxes) IoU, -1 where a box is to be ignored.
            gt_labels: (K,) int64.

        Returns:
            For each box the number of its object from 1, 0 for background, -1 for neither; its largest overlap; its
            label, or -1.
        """
        objects, boxes = overlaps.shape
        if not objects or not boxes:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        best, best_object = overlaps.max(dim=0)
        low, high = self.neg_iou_thr if isinstance(self.neg_iou_thr, tuple) else (0, self.neg_iou_thr)
        background = ((best >= low) & (best < high)).long().sub_(1)
        assigned = torch.where(best >= self.pos_iou_thr, best_object.add_(1), background)
        if self.match_low_quality:
            # If several objects claim a box, the last one gets it, as in mmdet's loop.
            claimed = self._claims(overlaps)
            assigned = torch.where(claimed > 0, claimed, assigned)
        labels = torch.cat([gt_labels.new_full((1, ), -1), gt_labels])[assigned.clamp(min=0)]
        return AssignResult(objects, assigned, best, labels=labels)

    def _claims(self, overlaps: Tensor) -> Tensor:
        """Return (N,) the largest number, from 1, of the objects with this as their best box; 0 for none."""
        top, box = overlaps.max(dim=1)
        numbers = torch.arange(1, len(top) + 1, device=top.device, dtype=torch.int32)
        if self.gt_max_assign_all:
            top = top.masked_fill_(top < self.min_pos_iou, torch.inf)
            return (overlaps == top[:, None]).mul(numbers[:, None]).amax(0)
        numbers = torch.where(top >= self.min_pos_iou, numbers, 0)
        return numbers.new_zeros(overlaps.shape[1]).scatter_reduce(0, box, numbers, 'amax')
