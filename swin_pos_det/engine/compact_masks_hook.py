"""A hook that lets any mmdet detector train with masks that keep only the rectangle around each object."""
from __future__ import annotations

import functools
from typing import Any, Callable, Iterator, List

import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor
from torch.nn.modules.utils import _pair

from ..data.compact_masks import CompactMasks
from ..data.loading import LoadCompactAnnotations
from .loader_transfer import restart_workers


def transforms_of(dataset: Any) -> Iterator[List[Any]]:
    """Yield the lists of transforms of a data set and of those it wraps, with the lists inside them."""
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or [])]:
        if inner is not None:
            yield from transforms_of(inner)
    pending = [getattr(dataset, 'pipeline', None)]
    while pending:
        transforms = getattr(pending.pop(), 'transforms', None)
        if isinstance(transforms, list):
            yield transforms
            pending += transforms


def load_compact_masks(dataset: Any) -> int:
    """Replace mmdet's ``LoadAnnotations`` in the pipelines of a data set, in each step that loads bitmaps.

    Returns:
        The number of replaced ones.
    """
    replaced = 0
    for transforms in transforms_of(dataset):
        for number, transform in enumerate(transforms):
            if type(transform) is LoadAnnotations and transform.with_mask and transform.poly2mask:
                compact = LoadCompactAnnotations.__new__(LoadCompactAnnotations)
                compact.__dict__.update(transform.__dict__)
                transforms[number] = compact
                replaced += 1
    return replaced


def mask_targets(otherwise: Callable[..., Tensor], sampling_results: List[Any], batch_gt_instances: List[Any],
                 rcnn_train_cfg: Any) -> Tensor:
    """Compute ``FCNMaskHead.get_targets`` on the device, without copying a mask per box or synchronizing.

    Args:
        otherwise: the function for masks that are not compact.
        sampling_results: of each image.
        batch_gt_instances: of each image, with ``masks``.
        rcnn_train_cfg: with ``mask_size``.

    Returns:
        (P, h, w) float32, the targets of the positive boxes of all images.
    """
    every = [instances.masks for instances in batch_gt_instances]
    if not all(isinstance(masks, CompactMasks) for masks in every):
        return otherwise(sampling_results, batch_gt_instances, rcnn_train_cfg)
    size, binarize = _pair(rcnn_train_cfg.mask_size), not rcnn_train_cfg.get('soft_mask_target', False)
    targets = []
    for sampled, masks in zip(sampling_results, every):
        boxes = sampled.pos_priors
        if not len(boxes) or not len(masks):
            targets.append(boxes.new_zeros(0, *size))
            continue
        limits = torch.tensor([masks.width, masks.height] * 2, dtype=boxes.dtype, device=boxes.device)
        boxes = boxes.clamp(min=0).minimum(limits)
        targets.append(masks.targets(boxes, sampled.pos_assigned_gt_inds, size, binarize).float())
    return torch.cat(targets)


@HOOKS.register_module()
class CompactMasksHook(Hook):
    """Train with :class:`~swin_pos_det.data.compact_masks.CompactMasks`: the same masks and targets, faster.

    It works for any mmdet detector whose pipeline loads bitmaps. Heads that need whole masks get them. Before the
    training starts it replaces ``LoadAnnotations`` in the training pipeline, and in heads that have ``FCNMaskHead``'s
    targets computes these on the device; afterwards the heads are as before.
    """

    def before_train(self, runner: Any) -> None:
        """Change pipeline and heads."""
        replaced = load_compact_masks(runner.train_dataloader.dataset)
        if replaced:
            restart_workers(runner.train_loop)
        self._heads = [module for module in runner.model.modules()
                       if getattr(type(module), 'get_targets', None) is FCNMaskHead.get_targets] if replaced else []
        for head in self._heads:
            head.get_targets = functools.partial(mask_targets, head.get_targets)
        print_log(f'compact masks: loaded by {replaced} pipeline(s); {len(self._heads)} mask head(s) make their '
                  'targets on the device', logger='current')

    def after_train(self, runner: Any) -> None:
        """Give the heads their own targets back."""
        for head in self._heads:
            del head.get_targets
