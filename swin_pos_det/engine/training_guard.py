"""Stopping a training whose loss is NaN or infinite, and warning of a warm-up longer than the training."""
from __future__ import annotations

import math
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import ConstantParamScheduler, LinearParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint

from ..errors import SettingTypeError, TrainingDivergedError

# A loss scaler skips the steps that would make weights NaN; this many in a row mean that no scale works.
MAX_SKIPPED_STEPS = 50


@HOOKS.register_module()
class TrainingGuardHook(Hook):
    """Stop a training that has diverged before it overwrites its last good checkpoint.

    Losses are read where MMEngine's ``RuntimeInfoHook`` has put them as numbers, so the check adds no
    synchronization; with ``DeferredScalarsHook`` that is after each log. Without loss scaling, one loss that is not
    finite has corrupted the weights and stops the training; with it, ``MAX_SKIPPED_STEPS`` in a row do. Weights are
    checked when a checkpoint is about to be saved.

    ``tools/train.py`` adds this hook by itself.

    Args:
        allow_nonfinite: continue the training, and save such weights.

    Raises:
        SettingTypeError: if ``allow_nonfinite`` is not a bool.
        TrainingDivergedError: in the training; the message names the part of the loss, or the weight.
    """

    # After RuntimeInfoHook (VERY_HIGH) has read the losses and before CheckpointHook (VERY_LOW) saves.
    priority = 'NORMAL'

    def __init__(self, allow_nonfinite: bool = False) -> None:
        if not isinstance(allow_nonfinite, bool):
            raise SettingTypeError(f'allow_nonfinite must be True or False, got {allow_nonfinite!r}')
        self.allow_nonfinite = allow_nonfinite
        self._in_a_row = self._checked = 0
        self._names: List[str] = []

    def before_train(self, runner: Runner) -> None:
        """Warn of warm-ups that end after the training."""
        self._checked = runner.iter
        for warning in _long_warm_ups(runner):
            runner.logger.warning(warning)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[Dict[str, Any]] = None) -> None:
        """Check the losses of this iteration, and of earlier ones that have come from the device since."""
        self._names = [name for name in outputs or {} if 'loss' in name]
        self._check_losses(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Check the losses that came from the device last."""
        self._check_losses(runner, runner.iter)

    def _check_losses(self, runner: Runner, done: int) -> None:
        """Check what is on the host of ``done`` iterations."""
        if self.allow_nonfinite:
            return
        losses = {name: runner.message_hub.log_scalars.get(f'train/{name}') for name in self._names}
        behind = max((getattr(history, 'behind', 0) for history in losses.values()), default=0)
        for ago in range(done - 1 - self._checked, behind - 1, -1):
            invalid = _invalid_losses(losses, ago)
            self._in_a_row = self._in_a_row + 1 if invalid else 0
            if self._in_a_row > (MAX_SKIPPED_STEPS if _skips_steps(runner.optim_wrapper) else 0):
                raise TrainingDivergedError(_message(runner, done - ago, ' and '.join(invalid)))
        self._checked = max(self._checked, done - behind)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Check the weights before they are saved."""
        if self.allow_nonfinite:
            return
        weights = [(name, weight) for name, weight in runner.model.named_parameters() if weight.is_floating_point()]
        if weights and not torch.stack([weight.isfinite().all() for _, weight in weights]).all():
            name, weight = next((name, weight) for name, weight in weights if not weight.isfinite().all())
            count, iteration = int((~weight.isfinite()).sum()), checkpoint.get('meta', {}).get('iter', runner.iter)
            raise TrainingDivergedError(_message(
                runner, iteration, f'{name} has {count} weights of {weight.numel()} that are not finite'))


def _invalid_losses(losses: Dict[str, Optional[HistoryBuffer]], ago: int) -> List[str]:
    """Return such as ``['loss_bbox is nan']`` of ``ago`` iterations before this one; the sum only if its parts are
    finite."""
    found = {}
    for name, history in losses.items():
        behind = getattr(history, 'behind', 0)
        values = [] if history is None else history.on_host if behind else history.data[0]
        index = len(values) - 1 - (ago - behind)
        if index >= 0 and not math.isfinite(values[index]):
            found[name] = f'{name} is {values[index]}'
    if len(found) > 1:
        found.pop('loss', None)
    return list(found.values())


def _skips_steps(optim_wrapper: Any) -> bool:
    """Return whether an optimizer wrapper leaves the weights alone when gradients overflow."""
    return hasattr(optim_wrapper, 'loss_scaler') or type(optim_wrapper).__name__.startswith('DeepSpeed')


def _message(runner: Runner, iteration: int, what: str) -> str:
    # MMEngine writes the file after a checkpoint, and its message hub names one that is about to be written.
    last = find_latest_checkpoint(runner.work_dir) if 'last_ckpt' in runner.message_hub.runtime_info else None
    kept = f'the last good checkpoint is {last}' if last else 'no checkpoint was saved before'
    return (f'the training has diverged: {what} at iteration {iteration} of {runner.max_iters}; {kept}. Try a lower '
            'optim_wrapper.optimizer.lr, a longer warm-up or optim_wrapper.clip_grad; --allow-nonfinite continues')


def _long_warm_ups(runner: Runner) -> Iterator[str]:
    schedulers = runner.param_schedulers or []
    for scheduler in sum(schedulers.values(), []) if isinstance(schedulers, dict) else schedulers:
        if isinstance(scheduler, LinearParamScheduler) and scheduler.start_factor < scheduler.end_factor:
            start, rise = scheduler.start_factor, scheduler.end_factor - scheduler.start_factor
        elif isinstance(scheduler, ConstantParamScheduler) and scheduler.factor < 1:
            start, rise = scheduler.factor, 0.
        else:
            continue
        if scheduler.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            continue
        unit, last = ('epochs', runner.max_epochs) if scheduler.by_epoch else ('iterations', runner.max_iters)
        if scheduler.end > last:
            reached = start + rise * max(last - 1 - scheduler.begin, 0) / max(scheduler.total_iters, 1)
            yield (f'the warm-up of {scheduler.param_name} ({type(scheduler).__name__}, end={scheduler.end}) outlasts '
                   f'the training of {last} {unit}: it gets to {reached:.2g} times the value of the config. Set its '
                   f'end in param_scheduler to less than {last}')
