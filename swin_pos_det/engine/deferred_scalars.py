"""Losses and gradient norms that stay on the device until somebody reads them: the same log, without the waits."""
from __future__ import annotations

import functools
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

from .merged_optimizer import optim_wrappers

MAX_PENDING = 1000  # records; they are read then even if nobody asks


class DeferredHistory(HistoryBuffer):
    """MMEngine's history of a scalar, whose newest values may still be on the device.

    Reading it by any of its methods, copying or pickling brings them to the host. Copies and pickles are plain
    ``HistoryBuffer``, as MMEngine writes them into checkpoints.

    Args:
        history: it continues this one.
        pending: where the newest values are.

    Attributes:
        behind: how many values are still on the device.
    """

    def __init__(self, history: HistoryBuffer, pending: PendingScalars) -> None:
        self.max_length, self.behind, self._pending = history.max_length, 0, pending
        self._values, self._counts = history.data

    @property
    def _log_history(self) -> np.ndarray:  # the base class works on these two
        self._pending.flush()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:
        self._pending.flush()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    @property
    def on_host(self) -> np.ndarray:
        """The values that can be read without a wait."""
        return self._values

    def extend(self, values: Sequence[float]) -> None:
        """Append values that have come from the device."""
        self._values = np.append(self._values, values)[-self.max_length:]
        self._counts = np.append(self._counts, np.ones(len(values), int))[-self.max_length:]
        self.behind = 0

    def __reduce__(self) -> Tuple[Any, ...]:
        return HistoryBuffer, (self._log_history, self._count_history, self.max_length)


class PendingScalars:
    """Scalars of the last iterations, kept on the device, and their histories in a message hub."""

    def __init__(self) -> None:
        self._rows: List[Tuple[List[DeferredHistory], Tensor]] = []

    def record(self, hub: MessageHub, scalars: Mapping[str, Any]) -> None:
        """Do what ``hub.update_scalar`` does for each scalar, without waiting for the device.

        Args:
            hub: its histories are replaced by :class:`DeferredHistory` when they are first seen.
            scalars: floating-point tensors of one element are deferred, anything else is not. They are copied.
        """
        histories, values = [], []
        for name, value in scalars.items():
            deferrable = isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1
            history = hub.log_scalars.get(name)
            if not deferrable or not isinstance(history, DeferredHistory):
                hub.update_scalar(name, value)
                if deferrable:
                    hub.log_scalars[name] = DeferredHistory(hub.log_scalars[name], self)
                continue
            history.behind += 1
            histories.append(history)
            values.append(value.detach().reshape(()))
        if values:
            self._rows.append((histories, torch.stack(values)))
        if len(self._rows) >= MAX_PENDING:
            self.flush()

    def flush(self) -> None:
        """Bring what is pending to the host, by one copy from each device."""
        rows, self._rows = self._rows, []
        found: Dict[DeferredHistory, List[float]] = {}
        for device in dict.fromkeys(values.device for _, values in rows):
            here = [row for row in rows if row[1].device == device]
            numbers = iter(torch.cat([values for _, values in here]).tolist())
            for histories, _ in here:
                for history in histories:
                    found.setdefault(history, []).append(next(numbers))
        for history, values in found.items():
            history.extend(values)


class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, which notes the losses of each iteration, without a wait for each loss."""

    def __init__(self, pending: PendingScalars) -> None:
        self._pending = pending

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Note what the model returned."""
        self._pending.record(runner.message_hub, {f'train/{name}': value for name, value in (outputs or {}).items()})


def clip_and_record(clip: Callable[..., Any], record: Callable[[Any], None], parameters: List[Tensor],
                    **settings: Any) -> None:
    """Clip gradients as ``clip`` does and hand their norm to ``record``, which the caller then does not wait for."""
    norm = clip(parameters, **settings)
    if norm is not None:
        record(norm)


@HOOKS.register_module()
class DeferredScalarsHook(Hook):
    """Bring losses and ``grad_norm`` to the host when they are logged, not at each iteration.

    MMEngine reads each loss and the norm of the gradients as a number in each iteration, and waits for the device each
    time. With this hook they are read together by whoever reads the log: the same numbers in the same order, so logs
    and checkpoints are the same. ``TrainingGuardHook`` then sees a loss that is not finite after the next log.

    While the training lasts it stands in for ``RuntimeInfoHook`` and for ``clip_func`` of optimizer wrappers.
    """

    # Before any other hook starts with the training.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Take over from the hook and the wrappers that wait."""
        self._pending = pending = PendingScalars()
        self._wrappers = [wrapper for wrapper in optim_wrappers(runner) if hasattr(wrapper, 'clip_func')]
        for wrapper in self._wrappers:
            name = f'train/{wrapper.grad_name}'
            record = functools.partial(_record_one, pending, wrapper.message_hub, name)
            wrapper.clip_func = functools.partial(clip_and_record, wrapper.clip_func, record)
        self._replaced = {number: hook for number, hook in enumerate(runner.hooks) if type(hook) is RuntimeInfoHook}
        for number, hook in self._replaced.items():
            runner.hooks[number] = deferred = DeferredRuntimeInfoHook(pending)
            deferred.__dict__.update(hook.__dict__)

    def after_train(self, runner: Any) -> None:
        """Read what is left, and put everything back."""
        self._pending.flush()
        for wrapper in self._wrappers:
            wrapper.clip_func = wrapper.clip_func.args[0]
        for number, hook in self._replaced.items():
            runner.hooks[number] = hook


def _record_one(pending: PendingScalars, hub: MessageHub, name: str, value: Any) -> None:
    pending.record(hub, {name: value})
