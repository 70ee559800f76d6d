"""The config's settings of optimizer and schedule, which apply in a resumed training."""
from __future__ import annotations

import copy
import warnings
from typing import Any, Dict, Iterator, List

from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

# Entries of a scheduler's state that are not settings.
_PROGRESS = frozenset({'optimizer', 'last_step', '_global_step', '_last_value', 'verbose', 'best', 'num_bad_epochs',
                       'cooldown_counter'})
State = Dict[str, Any]


class ConfiguredSchedule:
    """The settings of the optimizer and the schedule in a config, noted before a checkpoint is loaded.

    MMEngine silently takes the checkpoint's: a longer ``T_max``, another milestone, learning rate or weight decay
    has no effect in a resumed training.

    Args:
        runner: with its optimizer and its schedulers built, and not yet used.
    """

    def __init__(self, runner: Runner) -> None:
        self.groups = [_settings(group) for group in _groups(runner)]
        self.schedulers = [_state(scheduler) for scheduler in _schedulers(runner.param_schedulers)]

    def apply(self, runner: Runner, groups: List[State], schedulers: List[State], epoch_length: int) -> List[str]:
        """Apply the settings that differ from those of the checkpoint.

        Args:
            runner: which has loaded the checkpoint.
            groups: the settings of the optimizer's parameter groups in the checkpoint, as in ``self.groups``.
            schedulers: the schedulers' states in the checkpoint.
            epoch_length: in iterations, of the epochs that are complete.

        Returns:
            The changes, such as ``'CosineAnnealingLR.T_max 2 -> 4'``.
        """
        changed = self._apply_settings(runner, groups)
        built = list(_schedulers(runner.param_schedulers))
        differing = [f'{type(scheduler).__name__}.{key} {_brief(then.get(key))} -> {_brief(now[key])}'
                     for scheduler, now, then in zip(built, self.schedulers, schedulers)
                     for key in now.keys() - _PROGRESS if _differ(now[key], then.get(key))]
        if len(schedulers) != len(self.schedulers):
            differing.append(f'{len(schedulers)} -> {len(self.schedulers)} schedulers')
        if differing and any(hasattr(scheduler, 'need_val_args') for scheduler in built):
            return [*changed, f"not {', '.join(sorted(differing))}, as the schedule follows the evaluations: the "
                    "checkpoint's counts. Start a new training with load_from to change that"]
        if differing:
            self._replay(runner, built, schedulers, epoch_length)
        return [*changed, *sorted(differing)]

    def _apply_settings(self, runner: Runner, groups: List[State]) -> List[str]:
        scheduled = {scheduler['param_name'] for scheduler in self.schedulers}
        changed = {}
        for group, now, then in zip(_groups(runner), self.groups, groups):
            for key in now.keys() & then.keys() - scheduled:
                if _differ(now[key], then[key]) and not key.startswith('initial_'):
                    group[key] = now[key]
                    changed.setdefault(f'optimizer.{key}', f'{_brief(then[key])} -> {_brief(now[key])}')
        return [' '.join(change) for change in sorted(changed.items())]

    def _replay(self, runner: Runner, built: List[Any], then: List[State], epoch_length: int) -> None:
        """Step the schedulers from the beginning to the current iteration, as the training loop would have done."""
        names = {scheduler['param_name'] for scheduler in (*self.schedulers, *then)}
        scheduled = names | {f'initial_{name}' for name in names}
        for group, now in zip(_groups(runner), self.groups):
            group.update({key: now[key] for key in scheduled if key in now})
        for scheduler, now in zip(built, self.schedulers):
            vars(scheduler).update(copy.deepcopy(now))
        loop = runner.train_loop
        epochs = loop.epoch if isinstance(loop, EpochBasedTrainLoop) else 0
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that the optimizer has not stepped yet
            for iteration in range(1, loop.iter + 1):
                _step(built, by_epoch=False)
                if epochs and iteration % epoch_length == 0 and iteration // epoch_length <= epochs:
                    _step(built, by_epoch=True)


def flat(states: Any) -> List[Any]:
    """Flatten a list, or a dict of lists: MMEngine has one list of schedulers for each optimizer."""
    if not states:
        return []
    return [state for part in states.values() for state in part] if isinstance(states, dict) else list(states)


def _schedulers(built: Any) -> Iterator[Any]:
    return iter(flat(built))


def _groups(runner: Runner) -> List[State]:
    """Return the optimizer's parameter groups, and MMEngine's group of the settings before ``paramwise_cfg``."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [group for found in wrappers for group in found.param_groups]


def _settings(group: State) -> State:
    return copy.deepcopy({key: value for key, value in group.items() if key not in ('params', 'param_names')})


def _state(scheduler: Any) -> State:
    return copy.deepcopy({key: value for key, value in vars(scheduler).items()
                          if key != 'optimizer' and not callable(value)})


def _step(schedulers: List[Any], by_epoch: bool) -> None:
    for scheduler in schedulers:
        if scheduler.by_epoch == by_epoch:
            scheduler.step()


def _differ(now: Any, then: Any) -> bool:
    return _plain(now) != _plain(then)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _brief(value: Any) -> str:
    text = f'{value:.6g}' if isinstance(value, float) else str(value)
    return text if len(text) < 60 else f'{text[:56]} ...'
