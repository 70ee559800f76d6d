"""mmdet's RPN head with losses and proposals of a whole batch: the same numbers by a third of the operators."""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import RPNHead
from mmdet.models.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss, smooth_l1_loss
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator, anchor_inside_flags
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from ..ops import nms
from ..ops.elementwise import split_for_sigmoid

Sizes = Tuple[Tuple[int, int], ...]
SPLIT_FROM = 10000  # boxes; mmcv's batched_nms then suppresses level by level


class Maps(NamedTuple):
    """Predictions of all levels and images in one tensor: level by level, within it image by image.

    Attributes:
        logits: (T,) of all T anchors of the batch.
        deltas: (T, 4).
        sizes: (h, w) of each level.
        anchors: at each place of a level.
        images: in the batch.
    """

    logits: Tensor
    deltas: Tensor
    sizes: Sizes
    anchors: int
    images: int

    @property
    def counts(self) -> List[int]:
        """The number of anchors of an image on each level."""
        return [height * width * self.anchors for height, width in self.sizes]

    def starts(self) -> List[int]:
        """Return the number of an image's first anchor on each level, and their number."""
        return [sum(self.counts[:level]) for level in range(len(self.counts) + 1)]

    def shifts(self, image: int) -> List[int]:
        """Return, for each level, the difference from an anchor's number in its image to its place here."""
        return [start * (self.images - 1) + image * count for start, count in zip(self.starts(), self.counts)]

    def by_level(self, values: Tensor) -> Sequence[Tensor]:
        """Split (T, ...) values by level."""
        return values.split([count * self.images for count in self.counts])


def can_be_vectorized(head: RPNHead) -> bool:
    """Return whether :class:`VectorizedRPNHead` computes the same as ``head``, an ``RPNHead`` with its settings."""
    loss, cfg = head.loss_cls, head.train_cfg
    return bool(
        cfg and cfg.get('pos_weight', -1) <= 0 and head.cls_out_channels == 1 and not head.reg_decoded_bbox
        and type(loss) is CrossEntropyLoss and loss.use_sigmoid and loss.reduction == 'mean'
        and loss.class_weight is None and loss.ignore_index is None
        and type(head.loss_bbox) in (L1Loss, SmoothL1Loss) and head.loss_bbox.reduction == 'mean'
        and type(head.prior_generator) is AnchorGenerator and type(head.bbox_coder) is DeltaXYWHBBoxCoder
        and not getattr(head.bbox_coder, 'use_box_type', False))


@MODELS.register_module()
class VectorizedRPNHead(RPNHead):
    """mmdet's ``RPNHead``, the same arguments, losses, gradients and proposals.

    mmdet computes losses of the boxes of all anchors and multiplies those of all but a few by 0. Here those of the
    sampled anchors are computed, and set into a tensor of zeros that is summed as mmdet sums, so that the result is the
    same to the last bit. Anchors are made once. Proposals of all images are selected and decoded together.

    Settings other than those of :func:`can_be_vectorized` take mmdet's own way. One difference: a predicted box that is
    not finite makes mmdet's loss NaN at any anchor, here at one of an object.
    """

    def loss_and_predict(self, x: Tuple[Tensor, ...], batch_data_samples: List[Any],
                         proposal_cfg: Optional[Any] = None) -> Tuple[Dict[str, Any], List[InstanceData]]:
        """Compute losses and proposals of a batch.

        Args:
            x: (B, C, H, W) of each level.
            batch_data_samples: of each image, with its objects.
            proposal_cfg: how proposals are selected; default: ``test_cfg``.

        Returns:
            ``loss_rpn_cls`` and ``loss_rpn_bbox``, each a list of the sum over levels; for each image ``bboxes``,
            ``scores`` and ``labels``.

        Raises:
            ValueError: if no anchor is inside an image, as mmdet's.
        """
        objects, ignored, metas = unpack_gt_instances(batch_data_samples)
        if not (can_be_vectorized(self) and all(isinstance(each.bboxes, Tensor) for each in objects)):
            return super().loss_and_predict(x, batch_data_samples, proposal_cfg)
        maps = self._join(*self(x))
        anchors = self._anchors(maps.sizes, torch.float32, maps.logits.device)
        samples = [self._sample(anchors, maps.sizes, *image) for image in zip(objects, metas, ignored)]
        self._raw_positive_infos.update(sampling_results=[sampled for sampled, _ in samples])
        return self._losses(maps, samples), self._proposals(maps, metas, proposal_cfg)

    def predict_by_feat(self, cls_scores: List[Tensor], bbox_preds: List[Tensor],
                        score_factors: Optional[List[Tensor]] = None, batch_img_metas: Optional[List[Any]] = None,
                        cfg: Optional[Any] = None, rescale: bool = False, with_nms: bool = True) -> List[InstanceData]:
        """Select proposals.

        Args:
            cls_scores: (B, A, H, W) logits of each level.
            bbox_preds: (B, 4 A, H, W) of each level.
            score_factors: not used.
            batch_img_metas: of each image.
            cfg: how they are selected; default: ``test_cfg``.
            rescale: give boxes in the pixels of the original image.
            with_nms: always true.

        Returns:
            For each image ``bboxes``, ``scores`` and ``labels``.
        """
        if rescale or not can_be_vectorized(self):
            return super().predict_by_feat(cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale,
                                           with_nms)
        return self._proposals(self._join(cls_scores, bbox_preds), batch_img_metas, cfg)

    def _join(self, scores: List[Tensor], deltas: List[Tensor]) -> Maps:
        return Maps(torch.cat([score.permute(0, 2, 3, 1).reshape(-1) for score in scores]),
                    torch.cat([delta.permute(0, 2, 3, 1).reshape(-1, 4) for delta in deltas]),
                    tuple(tuple(score.shape[-2:]) for score in scores), self.num_base_priors, len(scores[0]))

    def _anchors(self, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return (A, 4) anchors of all levels; those of the last sizes are kept."""
        kept = self.__dict__.setdefault('_kept_anchors', {})
        if (sizes, dtype, device) not in kept:
            if any(key[0] != sizes for key in kept):
                kept.clear()
            with torch.inference_mode(False), torch.no_grad():
                kept[sizes, dtype, device] = torch.cat(self.prior_generator.grid_priors(sizes, dtype, device))
        return kept[sizes, dtype, device]

    def _sample(self, anchors: Tensor, sizes: Sizes, objects: InstanceData, meta: Dict[str, Any],
                ignored: Optional[InstanceData]) -> Tuple[SamplingResult, Optional[Tensor]]:
        """Assign and sample the anchors of an image; return the result, and which anchors its indices are of."""
        inside, border = None, self.train_cfg['allowed_border']
        if border >= 0 or not self._covers(meta['pad_shape'], sizes):
            flags = torch.cat(self.prior_generator.valid_flags(sizes, meta['pad_shape'], anchors.device))
            inside = anchor_inside_flags(anchors, flags, meta['img_shape'][:2], border).nonzero().squeeze(1)
            if not len(inside):
                raise ValueError('There is no valid anchor inside the image boundary. Please check the image size and '
                                 'anchor sizes, or set ``allowed_border`` to -1 to skip the condition.')
            anchors = anchors[inside]
        instances = InstanceData(priors=anchors)
        assigned = self.assigner.assign(instances, objects, ignored)
        return self.sampler.sample(assigned, instances, objects), inside

    def _covers(self, shape: Tuple[int, ...], sizes: Sizes) -> bool:
        """Return whether no cell of a level begins beyond an image of this shape (h, w, ...)."""
        return all(-(-shape[0] // stride[1]) >= height and -(-shape[1] // stride[0]) >= width
                   for stride, (height, width) in zip(self.prior_generator.strides, sizes))

    def _losses(self, maps: Maps, samples: List[Tuple[SamplingResult, Optional[Tensor]]]) -> Dict[str, List[Tensor]]:
        positive, negative = ([
            _places(indices(sampled) if inside is None else inside[indices(sampled)], maps, image)
            for image, (sampled, inside) in enumerate(samples)] for indices in (_positive, _negative))
        sampled = [each for each, _ in samples]
        average = sum(each.avg_factor for each in sampled) + torch.finfo(torch.float32).eps
        places, positive = torch.cat([*positive, *negative]), torch.cat(positive)
        labels = torch.cat([each.pos_gt_labels for each in sampled])
        loss_cls = self._loss_of_logits(maps, places, positive, labels, average)
        if not len(positive):
            return dict(loss_rpn_cls=[loss_cls], loss_rpn_bbox=[maps.deltas.sum() * 0])
        targets = self.bbox_coder.encode(torch.cat([each.pos_priors for each in sampled]),
                                         torch.cat([each.pos_gt_bboxes for each in sampled]))
        deltas, loss = maps.deltas.index_select(0, positive), self.loss_bbox
        found = (deltas - targets).abs() if type(loss) is L1Loss else smooth_l1_loss(
            deltas, targets, beta=loss.beta, reduction='none')
        every = found.new_zeros(maps.deltas.shape).index_copy(0, positive, found)
        return dict(loss_rpn_cls=[loss_cls], loss_rpn_bbox=[_sum_of_levels(maps, every, average, loss.loss_weight)])

    def _loss_of_logits(self, maps: Maps, places: Tensor, positive: Tensor, labels: Tensor, average: float) -> Tensor:
        """Return the loss of the logits at ``places``, of which those at ``positive`` have objects of these labels."""
        targets, weights = maps.logits.new_zeros(2, len(maps.logits), dtype=torch.float32)
        targets.index_copy_(0, positive, (labels == 0).float())  # 0 is the only class
        weights.index_fill_(0, places, 1)
        parts = zip(*(_parts(maps, values) for values in (maps.logits, targets)))
        every = torch.cat([F.binary_cross_entropy_with_logits(*part, reduction='none') for part in parts])
        return _sum_of_levels(maps, every * weights, average, self.loss_cls.loss_weight)

    @torch.no_grad()
    def _proposals(self, maps: Maps, metas: List[Dict[str, Any]], cfg: Optional[Any]) -> List[InstanceData]:
        cfg = self.test_cfg if cfg is None else cfg
        anchors = self._anchors(maps.sizes, maps.logits.dtype, maps.logits.device)
        scores, indices, levels = _best(maps, cfg.get('nms_pre', -1))
        shifts = torch.tensor([maps.shifts(image) for image in range(maps.images)], device=anchors.device)
        places = indices + shifts[:, levels]
        boxes = self.bbox_coder.decode(anchors.index_select(0, indices.flatten()),
                                       maps.deltas.index_select(0, places.flatten())).view(*indices.shape, 4)
        if self.bbox_coder.clip_border:
            for own, meta in zip(boxes, metas):
                own[:, 0::2].clamp_(min=0, max=meta['img_shape'][1])
                own[:, 1::2].clamp_(min=0, max=meta['img_shape'][0])
        valid = None
        if cfg.get('min_bbox_size', -1) >= 0:
            sides = boxes[..., 2:] - boxes[..., :2]
            valid = (sides > cfg.min_bbox_size).all(-1)
            valid = None if valid.all() else valid
        return [_suppress(*((boxes[image], scores[image], levels) if valid is None else
                            (each[valid[image]] for each in (boxes[image], scores[image], levels))), cfg)
                for image in range(maps.images)]


def _positive(sampled: SamplingResult) -> Tensor:
    return sampled.pos_inds


def _negative(sampled: SamplingResult) -> Tensor:
    return sampled.neg_inds


def _places(indices: Tensor, maps: Maps, image: int) -> Tensor:
    """Return the places in ``maps`` of an image's anchors."""
    starts = torch.tensor(maps.starts()[1:-1], device=indices.device)
    shifts = torch.tensor(maps.shifts(image), device=indices.device)
    return indices + shifts[torch.bucketize(indices, starts, right=True)]


def _sum_of_levels(maps: Maps, every: Tensor, average: float, weight: float) -> Tensor:
    """Sum (T, ...) losses by level, and then over levels: rounding depends on the order, and this is mmdet's."""
    sums = torch.stack([level.sum() for level in maps.by_level(every)])
    first, *others = (weight * (sums / average)).unbind()
    for loss in others:
        first = first + loss
    return first


def _parts(maps: Maps, values: Tensor, pieces: int = 1) -> Sequence[Tensor]:
    """Return (T,) ``values`` in the parts of which mmdet computes a sigmoid: ``pieces`` of each level."""
    return split_for_sigmoid(values, [count * maps.images // pieces for count in maps.counts for _ in range(pieces)])


def _best(maps: Maps, count: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Select the anchors with the ``count`` best scores of each level.

    Returns:
        (B, K) scores; (B, K) int64 numbers of the anchors in their image; (K,) int64 levels.
    """
    scores, indices = [], []
    every = torch.cat([part.sigmoid() for part in _parts(maps, maps.logits, maps.images)])
    for start, level in zip(maps.starts(), maps.by_level(every)):
        level = level.view(maps.images, -1)
        if 0 < count < level.shape[1]:
            level, order = (each[:, :count] for each in level.sort(descending=True))
            order = order + start
        else:
            order = torch.arange(start, start + level.shape[1], device=level.device).expand(maps.images, -1)
        scores.append(level)
        indices.append(order)
    sizes = torch.tensor([order.shape[1] for order in indices], device=scores[0].device)
    levels = torch.arange(len(indices), device=sizes.device).repeat_interleave(
        sizes, output_size=sum(order.shape[1] for order in indices))
    return torch.cat(scores, 1), torch.cat(indices, 1), levels


def _suppress(boxes: Tensor, scores: Tensor, levels: Tensor, cfg: Any) -> InstanceData:
    """Apply non-maximum suppression within each level of an image."""
    if not len(boxes):
        return InstanceData(bboxes=boxes, scores=scores, labels=scores.new_zeros(0))
    if {**cfg.nms, 'iou_threshold': 0} == dict(type='nms', iou_threshold=0) and len(boxes) < SPLIT_FROM and nms.can_run(
            boxes, scores):
        apart = boxes + (levels.to(boxes) * (boxes.max() + 1))[:, None]  # as in mmcv's batched_nms
        kept = nms.nms(apart, scores, cfg.nms.iou_threshold, cfg.max_per_img)
        scores = scores[kept]
    else:
        found, kept = batched_nms(boxes, scores, levels, cfg.nms)
        scores, kept = found[:cfg.max_per_img, -1], kept[:cfg.max_per_img]
    return InstanceData(bboxes=boxes[kept], scores=scores, labels=kept.new_zeros(len(kept)))
