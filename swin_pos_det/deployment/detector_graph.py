"""A detector of mmdet as one module of tensors in, tensors out, for export.

Backbone, neck and heads are the detector's own. What mmdet does between them, with lists and loops over images, is
restated in tensor code; :func:`~swin_pos_det.deployment.exportable.check_exportable` refuses detectors that differ.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from torch import Tensor, nn

from ..models.data_preprocessor import SwinPosDataPreprocessor, attach_valid_sizes
from . import operators

_ABSENT = -1.  # the score of a box that takes no part


class Boxes(NamedTuple):
    """Boxes of a batch: (N, 4) in pixels, and for each its image, score and label, (N,)."""
    boxes: Tensor
    image: Tensor
    score: Tensor
    label: Tensor


class Preprocessor(nn.Module):
    """Normalise images and pad them to the divisor, as a detector's data preprocessor does.

    Args:
        preprocessor: of the detector.
    """

    def __init__(self, preprocessor: nn.Module) -> None:
        super().__init__()
        self.tells_sizes = isinstance(preprocessor, SwinPosDataPreprocessor)
        self.swaps = preprocessor._swaps if self.tells_sizes else preprocessor._channel_conversion
        self.normalises = preprocessor._enable_normalize
        if self.normalises:
            self.register_buffer('mean', preprocessor.mean.clone())
            self.register_buffer('std', preprocessor.std.clone())
        self.divisor = preprocessor.pad_size_divisor
        self.pad_value = float(preprocessor.pad_value)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), BGR from 0 to 255 -> the same with H and W rounded up to the divisor, which may be hidden."""
        x = images.flip(1) if self.swaps else images
        if self.normalises:
            x = (x - self.mean) / self.std
        height, width = x.shape[-2:]
        right, bottom = ((side + self.divisor - 1) // self.divisor * self.divisor - side for side in (width, height))
        padded = F.pad(x, (0, right, 0, bottom), value=self.pad_value)
        if self.tells_sizes:
            attach_valid_sizes(padded, [(height, width)] * images.shape[0])
        return padded


def decode(coder: DeltaXYWHBBoxCoder, anchors: Tensor, deltas: Tensor, limit: Tensor) -> Tensor:
    """Apply a coder's deltas (..., 4) to boxes (..., 4), and clip the result to ``limit`` (4,), if the coder clips."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) * 0.5
    most = abs(math.log(16 / 1000))  # mmdet's wh_ratio_clip
    centre = centre + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-most, most).exp() * 0.5
    boxes = torch.cat([centre - half, centre + half], -1)
    return boxes.clamp(min=0).minimum(limit) if coder.clip_border else boxes


def suppress(found: Boxes, groups: Tensor, cfg: Dict[str, Any], threshold: Tensor, images: int) -> Boxes:
    """Suppress, within each image and group, boxes that overlap a better one.

    Args:
        found: the candidates.
        groups: (N,) such as labels.
        cfg: of the test settings: ``nms`` and ``max_per_img``.
        threshold: (1,) that scores must exceed.
        images: how many there are.

    Returns:
        What is kept, by image and falling score.
    """
    limit = cfg['max_per_img'] if cfg['max_per_img'] > 0 else operators.NO_LIMIT
    kept = []
    for index in range(images):
        score = found.score if images == 1 else torch.where(found.image == index, found.score, _ABSENT)
        boxes = found.boxes
        if not cfg['nms'].get('class_agnostic'):
            # mmdet's way: groups are moved apart, by more than the largest coordinate of the candidates.
            largest = F.pad(torch.where((score > threshold)[:, None], boxes, 0.).flatten(), (0, 1)).max()
            boxes = boxes + (groups.to(boxes) * (largest + 1))[:, None]
        kept.append(torch.ops.swin_pos_det.nms(boxes, score, threshold, cfg['nms']['iou_threshold'], limit))
    places = kept[0] if images == 1 else torch.cat(kept)
    return Boxes(*(value[places] for value in found))


class DenseHead(nn.Module):
    """The boxes of a head that looks at every place of the feature maps: RPN, RetinaNet, ATSS.

    Args:
        head: of the detector; its anchors, coder and test settings are used.
        thresholded: scores must exceed the threshold that is handed over, and boxes have labels. False: an RPN.
    """

    def __init__(self, head: nn.Module, thresholded: bool) -> None:
        super().__init__()
        self.head = head
        self.thresholded = thresholded
        self.register_buffer('no_threshold', torch.tensor([_ABSENT / 2]), persistent=False)

    def forward(self, features: Sequence[Tensor], limit: Tensor, threshold: Tensor) -> Boxes:
        """Feature maps (B, C, H, W), the limit of coordinates (4,), the threshold (1,) -> boxes after NMS."""
        maps = self.head(features)
        images = features[0].shape[0]
        found: List[Boxes] = []
        levels: List[Tensor] = []
        for level in range(len(maps[0])):
            anchors = self.head.prior_generator.single_level_grid_priors(maps[0][level].shape[-2:], level, device='cpu')
            for index in range(images):
                each = [values[level][index] for values in maps]
                found.append(self._candidates(each, anchors, limit, threshold, index))
                levels.append(torch.full_like(found[-1].label, level))
        every = Boxes(*map(torch.cat, zip(*found)))
        return suppress(every, every.label if self.thresholded else torch.cat(levels), self.head.test_cfg,
                        self.no_threshold, images)

    def _candidates(self, maps: Sequence[Tensor], anchors: Tensor, limit: Tensor, threshold: Tensor,
                    image: int) -> Boxes:
        """Select the best boxes of one level of one image, from its maps of scores, deltas and perhaps a factor."""
        head, cfg = self.head, self.head.test_cfg
        scores = maps[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[:, :-1]
        classes = scores.shape[1]
        most = cfg['nms_pre'] if cfg.get('nms_pre', -1) > 0 else operators.NO_LIMIT
        score, at = torch.ops.swin_pos_det.best(scores.flatten(), most)
        place = at if classes == 1 else torch.div(at, classes, rounding_mode='floor')
        deltas = maps[1].permute(1, 2, 0).reshape(-1, 4)
        boxes = decode(head.bbox_coder, anchors[place], deltas[place], limit)
        valid = score > threshold if self.thresholded else torch.ones_like(score, dtype=torch.bool)
        if len(maps) > 2:
            score = score * maps[2].permute(1, 2, 0).flatten()[place].sigmoid()
        if cfg.get('min_bbox_size', -1) >= 0:
            valid = valid & (boxes[:, 2:] - boxes[:, :2] > cfg['min_bbox_size']).all(1)
        return Boxes(boxes, torch.full_like(at, image), torch.where(valid, score, _ABSENT),
                     torch.zeros_like(at) if classes == 1 else at % classes)


class RoIHead(nn.Module):
    """The second stage of Faster, Mask and Cascade R-CNN.

    Args:
        head: ``StandardRoIHead`` or ``CascadeRoIHead`` of the detector.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.box_stages = list(zip(_stages(head, 'bbox_roi_extractor'), _stages(head, 'bbox_head')))
        self.mask_stages = list(zip(_stages(head, 'mask_roi_extractor'), _stages(head, 'mask_head'))) if (
            head.with_mask) else []

    def forward(self, features: Sequence[Tensor], proposals: Boxes, limit: Tensor, threshold: Tensor,
                images: int) -> Tuple[Boxes, Optional[Tensor]]:
        """Feature maps and proposals -> detections, and the probabilities (D, h, w) of their masks."""
        found = self._classify(features, proposals, limit)
        cfg = self.head.test_cfg
        detections = suppress(found, found.label, cfg, threshold, images)
        if not self.mask_stages:
            return detections, None
        masks = [self._mask(head, extractor, features, detections) for extractor, head in self.mask_stages]
        return detections, masks[0] if len(masks) == 1 else torch.stack(masks).mean(0)

    def _classify(self, features: Sequence[Tensor], proposals: Boxes, limit: Tensor) -> Boxes:
        """Predict a box, a score and a label for every proposal and class."""
        boxes, total = proposals.boxes, 0.
        for stage, (extractor, head) in enumerate(self.box_stages):
            scores, deltas = head(sample(extractor, features, boxes, proposals.image))
            total = total + scores
            per_class = 1 if head.reg_class_agnostic else head.num_classes
            boxes = decode(head.bbox_coder, boxes[:, None], deltas.unflatten(1, (per_class, 4)), limit)
            if stage < len(self.box_stages) - 1:
                own = torch.zeros_like(proposals.label) if per_class == 1 else scores[:, :-1].argmax(1)
                boxes = _pick(boxes, own)
        score = (total / len(self.box_stages)).softmax(-1)[:, :-1]
        classes = score.shape[1]
        places = torch.arange(classes, device=score.device)
        return Boxes(boxes.expand(-1, classes, 4).reshape(-1, 4), proposals.image[:, None].expand_as(score).flatten(),
                     score.flatten(), places.expand_as(score).flatten())

    @staticmethod
    def _mask(head: nn.Module, extractor: nn.Module, features: Sequence[Tensor], detections: Boxes) -> Tensor:
        logits = head(sample(extractor, features, detections.boxes, detections.image))
        own = torch.zeros_like(detections.label) if head.class_agnostic else detections.label
        return _pick(logits, own).sigmoid()


def _stages(head: nn.Module, name: str) -> List[nn.Module]:
    part = getattr(head, name)
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _pick(values: Tensor, at: Tensor) -> Tensor:
    """(N, K, ...) values and (N,) places in K -> (N, ...)."""
    rows = torch.arange(values.shape[0], device=values.device) * values.shape[1]
    return values.flatten(0, 1)[rows + at]


def sample(extractor: nn.Module, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
    """Sample boxes (N, 4) of images (N,) from the feature maps, as ``SingleRoIExtractor`` does: (N, C, h, w)."""
    layers = list(extractor.roi_layers)
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt() / extractor.finest_scale + 1e-6
    level = torch.zeros_like(image)
    for above in range(1, len(layers)):
        level = level + (side >= 2.**above).to(level)  # floor(log2(side)), without its rounding
    layer = layers[0]
    return torch.ops.swin_pos_det.roi_align(
        list(features[:len(layers)]), boxes, image, level, [1 / each.spatial_scale for each in layers],
        list(layer.output_size), layer.sampling_ratio, layer.aligned)


class DetectorGraph(nn.Module):
    """A detector as a function of tensors.

    Args:
        detector: that :func:`~swin_pos_det.deployment.exportable.check_exportable` accepts.
        images: how many there are in a batch.
    """

    def __init__(self, detector: nn.Module, images: int = 1) -> None:
        super().__init__()
        self.images = images
        self.preprocessor = Preprocessor(detector.data_preprocessor)
        self.backbone, self.neck = detector.backbone, detector.neck if detector.with_neck else nn.Identity()
        two_stages = hasattr(detector, 'roi_head')
        self.dense = DenseHead(detector.rpn_head if two_stages else detector.bbox_head, not two_stages)
        self.roi = RoIHead(detector.roi_head) if two_stages else None

    @property
    def outputs(self) -> List[str]:
        """Names of the results of ``forward``."""
        names = ['boxes', 'scores', 'labels']
        if self.roi is not None and self.roi.mask_stages:
            names.append('masks')
        return names if self.images == 1 else [*names, 'image_index']

    def forward(self, image: Tensor, score_threshold: Tensor) -> Tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (B, 3, H, W) float32, BGR from 0 to 255, of the size that the test pipeline gives them.
            score_threshold: (1,), which the scores of detections exceed.

        Returns:
            boxes (D, 4) as x1, y1, x2, y2 in pixels of the input, scores (D,), labels (D,) int64, perhaps masks
            (D, h, w), probabilities within the box, and with more than one image ``image_index`` (D,), by image and
            falling score.
        """
        height, width = image.shape[-2:]
        limit = torch.stack([torch.full((), side) for side in (width, height, width, height)]).to(image.dtype)
        features = self.neck(self.backbone(self.preprocessor(image)))
        found, masks = self.dense(features, limit, score_threshold), None
        if self.roi is not None:
            found, masks = self.roi(features, found, limit, score_threshold, self.images)
        results = [found.boxes, found.score, found.label]
        results += [] if masks is None else [masks]
        return tuple(results if self.images == 1 else [*results, found.image])
