"""A hook that lets any mmdet detector assign boxes to objects without a loop over the objects."""
from __future__ import annotations

from typing import Any, Iterator, Tuple

from mmdet.models.task_modules.assigners import BboxOverlaps2D, MaxIoUAssigner
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import nn

from ..models.assigners import VectorizedBboxOverlaps2D, VectorizedMaxIoUAssigner


def assigners_of(model: nn.Module) -> Iterator[Tuple[Any, Any, MaxIoUAssigner]]:
    """Yield mmdet's ``MaxIoUAssigner`` in the parts of a model, as (what holds it, name or index, assigner)."""
    for module in model.modules():
        for name, value in vars(module).items():
            if type(value) is MaxIoUAssigner:
                yield vars(module), name, value
            elif isinstance(value, list):  # a cascade has one for each stage
                yield from ((value, index, item) for index, item in enumerate(value) if type(item) is MaxIoUAssigner)


@HOOKS.register_module()
class VectorizedAssignersHook(Hook):
    """Train with :class:`~swin_pos_det.models.VectorizedMaxIoUAssigner` wherever a detector has mmdet's.

    The same as naming it in ``model.train_cfg``, for any config. The same assignment.
    """

    def before_train(self, runner: Any) -> None:
        """Replace the assigners."""
        self._replaced = list(assigners_of(runner.model))
        for holder, key, assigner in self._replaced:
            holder[key] = vectorized = VectorizedMaxIoUAssigner.__new__(VectorizedMaxIoUAssigner)
            vectorized.__dict__.update(assigner.__dict__)
            calculator = assigner.iou_calculator
            if type(calculator) is BboxOverlaps2D:
                vectorized.iou_calculator = VectorizedBboxOverlaps2D(calculator.scale, calculator.dtype)
        print_log(f'vectorized assigners: {len(self._replaced)}', logger='current')

    def after_train(self, runner: Any) -> None:
        """Put mmdet's back."""
        for holder, key, assigner in self._replaced:
            holder[key] = assigner
