"""Operators of a detector's graph that ONNX has and torch's exporter does not: each is mmcv's when it is run in torch.

Their number of results depends on the data, so the exporter must not look inside. :func:`onnx_translations` says what
each becomes.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import mmcv.ops
import torch
from torch import Tensor

NO_LIMIT = 2**31 - 1


@torch.library.custom_op('swin_pos_det::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, score_threshold: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Suppress boxes that overlap a better one.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,).
        score_threshold: (1,); only boxes with a higher score take part.
        iou_threshold: a box is dropped if its IoU with a better one is higher.
        limit: of the number of boxes that are kept.

    Returns:
        (K,) int64, places of those that are kept, by falling score.
    """
    candidates = (scores > score_threshold).nonzero().flatten()
    if not len(candidates):
        return candidates
    kept = mmcv.ops.nms(boxes[candidates].contiguous(), scores[candidates].contiguous(), iou_threshold)[1]
    return candidates[kept[:limit]]


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, score_threshold: Tensor, iou_threshold: float, limit: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(max=limit), dtype=torch.int64)


@torch.library.custom_op('swin_pos_det::best', mutates_args=())
def best(scores: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """Return the ``count`` highest of the scores (N,) in falling order, or all if there are fewer, and their places."""
    found, places = scores.sort(descending=True, stable=True)
    return found[:count].clone(), places[:count].clone()


@best.register_fake
def _(scores: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size(max=count)
    return scores.new_empty(size), scores.new_empty(size, dtype=torch.int64)


@torch.library.custom_op('swin_pos_det::roi_align', mutates_args=())
def roi_align(features: List[Tensor], boxes: Tensor, image: Tensor, level: Tensor, strides: List[float],
              size: List[int], sampling_ratio: int, aligned: bool) -> Tensor:
    """Sample each box from the feature map of its level.

    Args:
        features: of each level, (B, C, H, W).
        boxes: (N, 4) in pixels.
        image: (N,) int64, of each box.
        level: (N,) int64, of each box.
        strides: of each level, in pixels.
        size: (h, w) of the result.
        sampling_ratio: of mmcv's ``RoIAlign``, like ``aligned``.

    Returns:
        (N, C, h, w).
    """
    rois = torch.cat([image[:, None].to(boxes), boxes], 1)
    out = features[0].new_zeros(len(rois), features[0].shape[1], *size)
    for index, (feature, stride) in enumerate(zip(features, strides)):
        own = (level == index).nonzero().flatten()
        if len(own):
            out[own] = mmcv.ops.roi_align(feature.contiguous(), rois[own], tuple(size), 1 / stride, sampling_ratio,
                                          'avg', aligned)
    return out


@roi_align.register_fake
def _(features: List[Tensor], boxes: Tensor, image: Tensor, level: Tensor, strides: List[float],
      size: List[int], sampling_ratio: int, aligned: bool) -> Tensor:
    return features[0].new_empty(boxes.shape[0], features[0].shape[1], *size)


def onnx_translations() -> Dict[Callable, Callable]:
    """Return what each operator becomes in ONNX, opset 18, for ``torch.onnx.export(custom_translation_table=...)``."""
    from onnxscript import opset18 as op

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def onnx_nms(boxes: Any, scores: Any, score_threshold: Any, iou_threshold: float, limit: int) -> Any:
        kept = op.NonMaxSuppression(op.Unsqueeze(boxes, ints(0)), op.Unsqueeze(scores, ints(0, 1)), ints(limit),
                                    op.Constant(value_floats=[iou_threshold]), score_threshold)
        return op.Squeeze(op.Slice(kept, ints(2), ints(3), ints(1)), ints(1))  # of image, class, box

    def onnx_best(scores: Any, count: int) -> Any:
        return op.TopK(scores, op.Min(op.Shape(scores), ints(count)))

    def onnx_roi_align(features: Any, boxes: Any, image: Any, level: Any, strides: Any, size: Any, sampling_ratio: int,
                       aligned: bool) -> Any:
        found, places = [], []
        for index, (feature, stride) in enumerate(zip(features, strides)):
            own = op.Squeeze(op.NonZero(op.Equal(level, ints(index))), ints(0))
            places.append(own)
            found.append(op.RoiAlign(
                feature, op.Gather(boxes, own), op.Gather(image, own), mode='avg', spatial_scale=1 / stride,
                coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel',
                output_height=size[0], output_width=size[1], sampling_ratio=sampling_ratio))
        if len(found) == 1:
            return found[0]
        # In the order of levels; the way back is the inverse of that permutation.
        order = op.Concat(*places, axis=0)
        count = op.Squeeze(op.Shape(order))
        numbers = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
        return op.Gather(op.Concat(*found, axis=0), op.ScatterElements(order, order, numbers))

    ops = torch.ops.swin_pos_det
    return {ops.nms.default: onnx_nms, ops.best.default: onnx_best, ops.roi_align.default: onnx_roi_align}
