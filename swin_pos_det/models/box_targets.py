"""Targets of mmdet's box heads for a whole batch at once."""
from __future__ import annotations

from typing import Any, List, Tuple

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from torch import Tensor, nn


def has_mmdets_targets(module: nn.Module) -> bool:
    """Return whether a module computes ``BBoxHead``'s own targets, with settings of which they can be joined."""
    kind = type(module)
    return (getattr(kind, 'get_targets', None) is BBoxHead.get_targets
            and kind._get_targets_single is BBoxHead._get_targets_single
            and type(module.bbox_coder) is DeltaXYWHBBoxCoder and not module.reg_decoded_bbox)


def box_targets(head: BBoxHead, sampling_results: List[Any], rcnn_train_cfg: Any,
                concat: bool = True) -> Tuple[Any, ...]:
    """Compute ``BBoxHead.get_targets``, the same values, with the boxes of all images encoded at once.

    Args:
        head: for which :func:`has_mmdets_targets` is true.
        sampling_results: of each image.
        rcnn_train_cfg: with ``pos_weight``.
        concat: join the targets of the images; otherwise, mmdet's own function is called.

    Returns:
        Of S sampled boxes, positive ones of an image before its negative ones: (S,) labels, (S,) weights of labels,
        (S, 4) targets, (S, 4) weights of targets.
    """
    positive = [each.pos_priors for each in sampling_results]
    if not concat or rcnn_train_cfg.pos_weight > 0 or not all(isinstance(boxes, Tensor) for boxes in positive):
        return type(head).get_targets(head, sampling_results, rcnn_train_cfg, concat)
    counts = [(len(each.pos_priors), len(each.neg_priors)) for each in sampling_results]
    most = max(max(pair) for pair in counts)
    boxes = torch.cat(positive)
    encoded = head.bbox_coder.encode(boxes, torch.cat([each.pos_gt_bboxes for each in sampling_results]))
    encoded = encoded.to(boxes.dtype).split([count for count, _ in counts])
    background = boxes.new_full((most, ), head.num_classes, dtype=torch.long)
    zeros, ones = boxes.new_zeros(most, 4), boxes.new_ones(most, 4)
    labels = _alternate([each.pos_gt_labels for each in sampling_results], background, counts)
    weights = _alternate([ones[:count] for count, _ in counts], zeros, counts)
    return labels, boxes.new_ones(len(labels)), _alternate(encoded, zeros, counts), weights


def _alternate(positive: Any, negative: Tensor, counts: List[Tuple[int, int]]) -> Tensor:
    """Join what belongs to the positive boxes of each image with as much of ``negative`` as it has negative boxes."""
    return torch.cat([part for own, (_, count) in zip(positive, counts) for part in (own, negative[:count])])
