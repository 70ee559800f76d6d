"""Resuming a training exactly, also with tables of another window."""
from __future__ import annotations

from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..checkpoints import CheckpointError, LoadReport
from . import random_state
from .numbered_batches import NumberedBatches, number_batches, sampler_seed
from .schedule import ConfiguredSchedule, flat

RECORD = 'resume_record'
# Entries of torch's optimizer states that have the shape of the parameter.
_AVERAGES = frozenset({'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer'})


@HOOKS.register_module()
class ResumeHook(Hook):
    """Make a resumed training equal to one that was never interrupted: on a CPU, bit for bit.

    MMEngine's checkpoints hold neither the states of the random generators nor the position in an epoch. This hook

    - saves the generators' states of all processes, and restores them;
    - seeds a batch's augmentation from the seed, the process and the batch's number alone. So it is the
      same with any number of loader workers, and a resumed training need not load earlier batches;
    - continues within an epoch, or within the data of an iteration-based training, after the last batch seen, with the
      same order of samples. MMEngine repeats the epoch, and loads all data again;
    - keeps the random draws of an evaluation out of the training;
    - applies changed settings of the optimizer and the schedule, and logs them;
    - drops the optimizer's averages of parameters that were resampled (see :class:`ResumeResampledHook`).

    Use it from the first start on; ``tools/train.py`` adds it by itself. A checkpoint that was saved without it resumes
    too, with other random numbers. Transforms that keep samples of earlier batches (``CachedMosaic``) start empty.

    Raises:
        CheckpointError: before the first step, if the checkpoint's training state is malformed, or it was saved within
            an epoch of another length.
    """

    # After the sampler's set_epoch, before the checkpoint is saved.
    priority = 'LOW'

    def __init__(self) -> None:
        self._batches: Optional[NumberedBatches] = None
        self._checkpoint: Dict[str, Any] = {}
        self._configured: Optional[ConfiguredSchedule] = None
        self._batches_done = 0  # of the current epoch
        self._waiting_states: Optional[Dict[str, Any]] = None
        self._training_states: Optional[Dict[str, Any]] = None  # during an evaluation
        self._all_states: List[Dict[str, Any]] = []

    # --- saving ---

    def before_save_on_all_processes(self, runner: Runner) -> None:
        """Collect the generators' states; the package's ``CheckpointHook`` calls this."""
        self._all_states = all_gather_object(self._training_states or random_state.capture())

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Add what resuming needs to a checkpoint that holds the optimizer."""
        if 'optimizer' not in checkpoint or not self._configured:
            return
        states = self._all_states or [self._training_states or random_state.capture()]
        checkpoint[RECORD] = dict(
            random_states=states, batches_done=self._batches_done, epoch_length=len(runner.train_dataloader),
            sampler_seed=sampler_seed(runner), optimizer_settings=self._configured.groups)

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Count the epoch's batches."""
        self._all_states = []
        self._batches_done = batch_idx + 1 if _by_epoch(runner) else 0

    def after_train_epoch(self, runner: Runner) -> None:
        """Reset the count: the numbers of an epoch's iterations start at 0."""
        self._batches_done = 0
        vars(runner.train_loop).pop('run_iter', None)

    def before_val(self, runner: Runner) -> None:
        """Save the generators' states."""
        if self._configured:
            self._training_states = random_state.capture()

    def after_val(self, runner: Runner) -> None:
        """Restore the generators' states of the training."""
        if self._training_states:
            random_state.restore(self._training_states)
            self._training_states = None

    # --- resuming ---

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Note the settings of the checkpoint and of the config, before one overwrites the other."""
        if isinstance(runner.optim_wrapper, BaseOptimWrapper):
            self._configured = ConfiguredSchedule(runner)
            self._checkpoint = {key: checkpoint.get(key) for key in (RECORD, 'param_schedulers', 'message_hub')}

    def before_train(self, runner: Runner) -> None:
        """Wrap the training loader; after a resume, restore the state that the checkpoint holds."""
        resumed = runner.iter > 0
        record = self._checkpoint.get(RECORD) or {} if resumed else {}
        self._batches_done = batches_done(self._checkpoint, runner) if resumed else 0
        if resumed and self._configured:
            self._let_the_config_count(runner, record)
        self._configured = self._configured or ConfiguredSchedule(runner)
        self._batches = number_batches(runner, record.get('sampler_seed'))
        if resumed:
            _drop_changed_averages(runner)
            _check_averages(runner)
            _note_accumulation(runner)
            self._waiting_states = _own_states(record, runner)
            if _by_epoch(runner) and not self._batches_done:
                self._restore_states()
        self._checkpoint = {}

    def before_train_epoch(self, runner: Runner) -> None:
        """Skip the batches that a resumed training has seen."""
        loop, batches = runner.train_loop, self._batches
        skipped = self._batches_done if _by_epoch(runner) else runner.iter
        if batches is None:
            if _by_epoch(runner) and skipped:
                raise CheckpointError(
                    'the checkpoint was saved within an epoch, and a resumed training cannot skip samples of a data '
                    'set without indices: save at the end of epochs (default_hooks.checkpoint.by_epoch=True)')
        elif _by_epoch(runner):
            batches.number = runner.iter - skipped
            batches.skip(skipped)
            if skipped:
                loop.run_iter = partial(_run_iter, loop.run_iter, skipped)
        elif isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = _SkippedIterator(loop.dataloader, skipped, batches.skip(skipped))
        self._restore_states()

    def _restore_states(self) -> None:
        if self._waiting_states is None:
            return
        try:
            random_state.restore(self._waiting_states)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError("the checkpoint's states of the random generators are malformed "
                                  f'({type(error).__name__}: {error})') from error
        self._waiting_states = None

    def _let_the_config_count(self, runner: Runner, record: Dict[str, Any]) -> None:
        groups = record.get('optimizer_settings') or ConfiguredSchedule(runner).groups
        epochs = runner.epoch if _by_epoch(runner) else 0
        length = (runner.iter - self._batches_done) // epochs if epochs else 0
        changed = self._configured.apply(runner, groups, flat(self._checkpoint.get('param_schedulers')), max(length, 1))
        if changed:
            rates = [rate for found in _wrappers(runner.optim_wrapper) for rate in found.get_lr()['lr'][:1]]
            print_log(f"settings of the config replace those of the checkpoint: {', '.join(changed)}; learning rate "
                      f"{', '.join(f'{rate:.4g}' for rate in rates)} from here on", logger='current')


class _SkippedIterator:
    """An iteration-based loop's data, with the first batches only counted: MMEngine requests those already seen."""

    def __init__(self, dataloader: DataLoader, skipped: int, rounds: int) -> None:
        self.skipped = skipped
        self.iterator = _InfiniteDataloaderIterator(dataloader)
        self.iterator._epoch = rounds

    def skip_iter(self, num_iters: int) -> None:
        """Stop counting: newer releases of MMEngine call this instead of requesting batches already seen."""
        self.skipped = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.skipped:
            self.skipped -= 1
            return None
        return next(self.iterator)


def _run_iter(run_iter: Any, skipped: int, index: int, batch: Any) -> None:
    run_iter(index + skipped, batch)


def _by_epoch(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def batches_done(checkpoint: Dict[str, Any], runner: Runner) -> int:
    """Return the number of batches of its epoch that a resuming training has seen; 0 if it has no epochs.

    Args:
        checkpoint: the loaded one.
        runner: which has loaded it.

    Raises:
        CheckpointError: if the epoch it was in had another length.
    """
    if not _by_epoch(runner):
        return 0
    length, record = len(runner.train_dataloader), checkpoint.get(RECORD)
    if record:
        done, then = record['batches_done'], record['epoch_length']
    else:
        done, then = _place_by_mmengine((checkpoint.get('message_hub') or {}).get('runtime_info') or {}, runner)
    if done == then:
        return length
    if done and then != length:
        raise CheckpointError(
            f'the checkpoint was saved after {done} of {then} iterations of an epoch, which has {length} now. Resume '
            'with the same data, batch size and number of processes, or from the end of an epoch '
            '(default_hooks.checkpoint.by_epoch=True)')
    return done


def _place_by_mmengine(info: Dict[str, Any], runner: Runner) -> Tuple[int, int]:
    """Return the finished and total batches of the epoch at which MMEngine saved a checkpoint."""
    length = len(runner.train_dataloader)
    if info.get('epoch') != runner.epoch:  # the running epoch; a checkpoint at its end has one more
        return 0, length
    then = info['max_iters'] // info['max_epochs'] if info.get('max_iters') and info.get('max_epochs') else length
    done = runner.iter - runner.epoch * then
    if not 0 <= done <= then:
        print_log(f'the checkpoint was saved within epoch {runner.epoch + 1}, at a place that is not known, as epochs '
                  'had other lengths before: the epoch is repeated', logger='current')
        return 0, length
    return done, then


def _own_states(record: Dict[str, Any], runner: Runner) -> Optional[Dict[str, Any]]:
    """Return this process's random states from a checkpoint; log a line and return None if there are none."""
    states = record.get('random_states') or []
    if len(states) == runner.world_size:
        return states[runner.rank]
    why = f'of {len(states)} processes, not {runner.world_size}' if states else 'not there'
    print_log(f"the checkpoint's states of the random generators are {why}: the training continues with other random "
              'numbers', logger='current')
    return None


def _note_accumulation(runner: Runner) -> None:
    for wrapper in _wrappers(runner.optim_wrapper):
        counts = getattr(wrapper, '_accumulative_counts', 1)
        if runner.iter % counts:
            print_log(f'the checkpoint was saved after {runner.iter % counts} of {counts} iterations whose gradients '
                      'are added up; it does not hold these. Set default_hooks.checkpoint.interval to a multiple of '
                      'optim_wrapper.accumulative_counts', logger='current')


@HOOKS.register_module()
class ResumeResampledHook(Hook):
    """Let a training resume with parameters that were resampled or adapted on loading.

    The optimizer's averages in the checkpoint are those of the old parameters, and with another shape
    its first step would fail. They are dropped for these parameters, which start new averages; all others keep
    theirs. :class:`ResumeHook` does this too.
    """

    # Before anything uses the optimizer.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Drop the averages that do not fit, after the checkpoint was loaded."""
        _drop_changed_averages(runner)


def changed_on_loading(model: nn.Module) -> Dict[str, nn.Parameter]:
    """Return the parameters, by name, whose shape differs from that in the last loaded checkpoint."""
    changed = {}
    for prefix, module in model.named_modules():
        report = getattr(module, 'load_report', None)
        if isinstance(report, LoadReport):
            changed.update({f'{prefix}.{name}'.lstrip('.'): module.get_parameter(name)
                            for name in (*report.resampled, *report.adapted)})
    return changed


def _drop_changed_averages(runner: Runner) -> None:
    changed = {id(parameter) for parameter in changed_on_loading(runner.model).values()}
    dropped = 0
    for wrapper in _wrappers(runner.optim_wrapper):
        optimizer: Optimizer = wrapper.optimizer
        for parameter in [parameter for parameter in optimizer.state if id(parameter) in changed]:
            del optimizer.state[parameter]
            dropped += 1
    if dropped:
        print_log(f"{dropped} parameters were resampled or adapted on loading; the optimizer's averages of them start "
                  'from zero', logger='current')


def _check_averages(runner: Runner) -> None:
    """Check for averages that would fail, or be broadcast, in the first step."""
    names = {parameter: name for name, parameter in runner.model.named_parameters()}
    for wrapper in _wrappers(runner.optim_wrapper):
        for parameter, state in wrapper.optimizer.state.items():
            for key in _AVERAGES & state.keys():
                value, where = state[key], f"the checkpoint's {key} of {names.get(parameter, 'a parameter')}"
                if value is None:  # SGD's, without momentum
                    continue
                if not isinstance(value, torch.Tensor):
                    raise CheckpointError(f'{where} is a {type(value).__name__}, not a tensor')
                if value.shape != parameter.shape:
                    raise CheckpointError(f'{where} has shape {tuple(value.shape)}, the parameter '
                                          f'{tuple(parameter.shape)}')


def _wrappers(wrapper: Any) -> List[Any]:
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
