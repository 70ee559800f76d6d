"""Tell a detector that finds nothing from one whose numbers are NaN, which score thresholds drop without a word."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from ..evaluation.detections import DetectionsError


@HOOKS.register_module()
class NothingFoundHook(Hook):
    """Look for NaN when an evaluation finds nothing in any image: AP 0 would be no figure of a working detector.

    Scores that are NaN are below every threshold, so that NaN or infinity in weights or features look like a detector
    that finds nothing. Only then is the first batch run once more, to find the part that they come from.

    ``tools/train.py``, ``tools/test.py`` and the sweeps add this hook by themselves.

    Args:
        allow_nonfinite: log a warning instead of an error.

    Raises:
        DetectionsError: after the evaluation; the message names the part of the detector.
    """

    def __init__(self, allow_nonfinite: bool = False) -> None:
        self.allow_nonfinite = allow_nonfinite
        self._found, self._batch = 0, None

    def before_val_epoch(self, runner: Runner) -> None:
        """Forget the evaluation before."""
        self._found, self._batch = 0, None

    before_test_epoch = before_val_epoch

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                       outputs: Optional[Sequence[Any]] = None) -> None:
        """Count what was found in a batch; what has no instances counts as found."""
        self._batch = data_batch if self._batch is None else self._batch
        instances = [getattr(output, 'pred_instances', None) for output in outputs or ()]
        self._found += sum(1 if found is None else len(found) for found in instances)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict[str, float]] = None) -> None:
        """Look for NaN if nothing was found."""
        batch, self._batch = self._batch, None
        if batch is None or _over_processes(self._found):
            return
        part = nonfinite_part(runner.model, batch)
        if not _over_processes(part is not None):
            return
        message = nothing_found(part)
        if not self.allow_nonfinite:
            raise DetectionsError(message)
        print_log(message, 'current', logging.WARNING)

    after_test_epoch = after_val_epoch


def nothing_found(part: Optional[str]) -> str:
    """Say why nothing was found; ``part`` is None if it was another process that saw it."""
    return (f'the detector finds nothing as {part or "a part of it"} gives NaN or infinity: look for them in the '
            'weights and the training loss, lower the learning rate, or evaluate in float32')


def nonfinite_part(model: nn.Module, batch: Any) -> Optional[str]:
    """Run a detector on a batch and name its first part that gives NaN or infinity; None if all is finite.

    Args:
        model: a detector of MMDetection.
        batch: as its data loader gives it.
    """
    first: list[str] = []

    def look(name: str, outputs: Any) -> None:
        if not first and any(not tensor.isfinite().all() for tensor in _tensors(outputs)):
            first.append(name)

    handles = [module.register_forward_hook(lambda module, inputs, outputs, name=name: look(name, outputs))
               for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model.test_step(batch)
    finally:
        for handle in handles:
            handle.remove()
    return first[0] if first else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _over_processes(number: int) -> int:
    total = torch.tensor(int(number))
    all_reduce(total)
    return int(total)
