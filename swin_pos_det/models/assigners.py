"""mmdet's assigner of boxes to objects without its loop over objects, which synchronizes with the device at each."""
from __future__ import annotations

import torch
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class VectorizedMaxIoUAssigner(MaxIoUAssigner):
    """mmdet's ``MaxIoUAssigner`` with the same arguments and the same result.

    Each step is one operation over all objects and boxes and never synchronizes with the device; mmdet's does so twice
    for each object and three more times.
    """

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
        assigned = torch.full_like(best_object, -1)
        low, high = self.neg_iou_thr if isinstance(self.neg_iou_thr, tuple) else (0, self.neg_iou_thr)
        assigned = torch.where((best >= low) & (best < high), 0, assigned)
        assigned = torch.where(best >= self.pos_iou_thr, best_object + 1, assigned)
        if self.match_low_quality:
            # If several objects claim a box, the last one gets it, as in mmdet's loop.
            claimed = self._claims(overlaps)
            assigned = torch.where(claimed > 0, claimed.to(assigned.dtype), assigned)
        labels = torch.where(assigned > 0, gt_labels[(assigned - 1).clamp(min=0)], -1)
        return AssignResult(objects, assigned, best, labels=labels)

    def _claims(self, overlaps: Tensor) -> Tensor:
        """Return (N,) the largest number, from 1, of the objects with this as their best box; 0 for none."""
        top, box = overlaps.max(dim=1)
        numbers = torch.arange(1, len(top) + 1, device=top.device, dtype=torch.int32)
        numbers = torch.where(top >= self.min_pos_iou, numbers, 0)
        if self.gt_max_assign_all:
            return torch.where(overlaps == top[:, None], numbers[:, None], 0).amax(0)
        return numbers.new_zeros(overlaps.shape[1]).scatter_reduce(0, box, numbers, 'amax')
