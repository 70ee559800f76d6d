"""A hook that lets parts of any mmdet detector handle a whole batch, or all levels, at once."""
from __future__ import annotations

import functools
from typing import Any, Iterator, List, Tuple

from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from ..models.box_targets import box_targets, has_mmdets_targets
from ..models.roi_extractor import VectorizedSingleRoIExtractor
from ..models.rpn_head import VectorizedRPNHead, can_be_vectorized


def replaceable(model: nn.Module) -> Iterator[Tuple[nn.Module, type]]:
    """Yield the modules of a model that a faster class computes alike, each with this class; no subclasses."""
    for module in model.modules():
        if type(module) is RPNHead and can_be_vectorized(module):
            yield module, VectorizedRPNHead
        elif type(module) is SingleRoIExtractor:
            yield module, VectorizedSingleRoIExtractor


@HOOKS.register_module()
class VectorizedHeadsHook(Hook):
    """Train with :class:`~swin_pos_det.models.VectorizedRPNHead` and ``VectorizedSingleRoIExtractor``.

    The same as naming them in the config in place of mmdet's: the same parameters, losses and proposals. Box heads with
    mmdet's own targets compute them for all images at once. A training that stops by an exception leaves the classes in
    its model until it is trained again; they compute the same in tests, and nothing of them is in a checkpoint.
    """

    def __init__(self) -> None:
        self._replaced: List[Tuple[nn.Module, type, type]] = []
        self._heads: List[nn.Module] = []

    def before_train(self, runner: Any) -> None:
        """Give the modules their classes, which add no parameters."""
        self.after_train(runner)  # a training that stopped by an exception left them
        self._replaced = [(module, type(module), kind) for module, kind in replaceable(runner.model)]
        for module, _, kind in self._replaced:
            module.__class__ = kind
        self._heads = [module for module in runner.model.modules() if has_mmdets_targets(module)]
        for head in self._heads:
            head.get_targets = functools.partial(box_targets, head)
        print_log(f'vectorized RPN heads and RoI extractors: {len(self._replaced)}; box heads: {len(self._heads)}',
                  logger='current')

    def after_train(self, runner: Any) -> None:
        """Give mmdet's classes back."""
        for module, kind, _ in self._replaced:
            module.__class__ = kind
            module.__dict__.pop('_kept_anchors', None)
        for head in self._heads:
            del head.get_targets
        self._replaced, self._heads = [], []
