"""An optimizer step over few large parameter groups instead of one group for each parameter."""
from __future__ import annotations

from typing import Any, Dict, List, Tuple

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch.optim import Optimizer

from ..errors import SettingError

IMPLEMENTATIONS = ('auto', 'fused', 'foreach', 'default')


def merge_groups(groups: List[Dict[str, Any]]) -> List[Tuple[Dict[str, Any], List[Dict[str, Any]]]]:
    """Join parameter groups of equal settings, in the order in which the settings come first.

    Args:
        groups: of an optimizer; not changed.

    Returns:
        Groups with the same parameters and settings, as few as possible, each with its members. A group with a setting
        that has no hash, or is a tensor of its own, stays separate.
    """
    merged: Dict[Any, Tuple[Dict[str, Any], List[Dict[str, Any]]]] = {}
    for number, group in enumerate(groups):
        settings = _settings(group)
        key: Any = tuple(settings.items())
        try:
            whole, members = merged.setdefault(key, (settings, []))
        except TypeError:  # a value that has no hash
            whole, members = merged.setdefault(number, (settings, []))
        members.append(group)
        whole.setdefault('params', []).extend(group['params'])
    return list(merged.values())


def _settings(group: Dict[str, Any]) -> Dict[str, Any]:
    settings = dict(group)
    del settings['params']
    settings.pop('param_names', None)
    return settings


def use_merged_groups(optimizer: Optimizer, merge: bool = True, implementation: str = 'default') -> Tuple[Any, Any]:
    """Let ``optimizer.step()`` use merged groups, and all other code the original groups.

    MMEngine makes a group for each parameter as soon as one has a learning rate or weight decay of its own; torch then
    updates each by itself. Merged groups are updated by few operators that act on many parameters, with the same
    arithmetic for each. As the groups are restored after the step, schedulers, logs and checkpoints do not change.

    Args:
        optimizer: of any kind.
        merge: join groups of equal settings, see :func:`merge_groups`.
        implementation: 'fused', 'foreach', or 'default' for torch's choice, see :func:`choose_implementation`.

    Returns:
        The handles of the hooks; ``remove()`` of both undoes it.
    """
    whole: List[Tuple[List[Dict[str, Any]], List[Tuple[Any, ...]]]] = []
    flags = {} if implementation == 'default' else dict(fused=implementation == 'fused',
                                                        foreach=implementation == 'foreach')

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if whole:  # the last step raised
            optimizer.param_groups = whole.pop()[0]
        groups = optimizer.param_groups
        merged = merge_groups(groups) if merge else [(dict(group), [group]) for group in groups]
        optimizer.param_groups = [group for group, _ in merged]
        for group in optimizer.param_groups:
            group.update(flags)
        whole.append((groups, [(group, _settings(group), members) for group, members in merged]))

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not whole:  # a step around another's, by super().step(), after which the groups have come back
            return
        optimizer.param_groups, merged = whole.pop()
        for group, before_step, members in merged:  # some optimizers count in their groups, or adapt their rates
            after_step = _settings(group)
            if after_step != before_step:
                changed = {name: value for name, value in after_step.items() if name not in flags}
                for member in members:
                    member.update(changed)

    return optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)


def choose_implementation(optimizer: Optimizer, implementation: str) -> str:
    """Choose how an optimizer updates the parameters of a group.

    Args:
        optimizer: with its parameters on their device.
        implementation: 'fused': one kernel; 'foreach': few; 'auto': fused where torch has it for the device, dtype and
            optimizer, else foreach on a GPU, else torch's choice; 'default': torch's choice.

    Returns:
        'fused', 'foreach' or 'default'.

    Raises:
        SettingError: if the optimizer does not have the requested one.
    """
    if implementation == 'default':
        return 'default'
    possible = [name for name in ('fused', 'foreach') if name in optimizer.defaults]
    if 'fused' in possible and not _can_be_fused(optimizer):
        possible.remove('fused')
    on_cpu = all(parameter.device.type == 'cpu' for group in optimizer.param_groups for parameter in group['params'])
    if implementation == 'auto':
        possible = [name for name in possible if name == 'fused' or not on_cpu] + ['default']
        return possible[0]
    if implementation not in possible:
        raise SettingError(f'{type(optimizer).__name__} of torch {torch.__version__} has no {implementation!r} '
                           f'implementation for these parameters; it has {", ".join([*possible, "auto", "default"])}')
    return implementation


def prepare_fused_step(optimizer: Optimizer) -> None:
    """Make ready for a fused step what torch makes ready only for optimizers that are built with ``fused=True``.

    The loss scaler then leaves it to the kernel to skip a step whose gradients are not finite, instead of waiting for
    the device to learn whether there are any. Steps counted by another implementation, of a resumed checkpoint, move
    to the device of their parameter.
    """
    optimizer._step_supports_amp_scaling = True
    for parameter, state in optimizer.state.items():
        if isinstance(state.get('step'), torch.Tensor):
            state['step'] = state['step'].to(parameter.device, torch.float32)


def _can_be_fused(optimizer: Optimizer) -> bool:
    """Return whether a fused step works, by trying: the supported devices and dtypes depend on torch's release."""
    kinds = {(parameter.device, parameter.dtype) for group in optimizer.param_groups for parameter in group['params']}
    try:
        for device, dtype in kinds:
            one = torch.nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
            one.grad = torch.zeros_like(one)
            type(optimizer)([one], lr=0.1, fused=True).step()
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def optim_wrappers(runner: Any) -> List[Any]:
    """Return the optimizer wrappers of a runner: one, or those of an ``OptimWrapperDict``."""
    wrappers = runner.optim_wrapper
    return list(wrappers.values()) if hasattr(wrappers, 'optim_wrappers') else [wrappers]


@HOOKS.register_module()
class MergedOptimizerHook(Hook):
    """Make the optimizer's step faster, for any model and any constructor of parameter groups.

    Args:
        merge: update parameters of equal settings together, see :func:`use_merged_groups`.
        implementation: see :func:`choose_implementation`.

    Raises:
        SettingError: for another implementation.
    """

    priority = 'VERY_LOW'

    def __init__(self, merge: bool = True, implementation: str = 'auto') -> None:
        if implementation not in IMPLEMENTATIONS:
            raise SettingError(f'implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}')
        self.merge, self.implementation = merge, implementation

    def before_train(self, runner: Any) -> None:
        """Change the optimizer once all parameters are on their device and a checkpoint is loaded."""
        for wrapper in optim_wrappers(runner):
            optimizer = wrapper.optimizer
            if not isinstance(optimizer, Optimizer):  # DeepSpeed's, which flattens parameters itself
                print_log(f'{type(optimizer).__name__} is left as it is: no optimizer of torch', logger='current')
                continue
            used = choose_implementation(optimizer, self.implementation)
            if used == 'fused':
                prepare_fused_step(optimizer)
            use_merged_groups(optimizer, self.merge, used)
            groups = optimizer.param_groups
            print_log(f'{type(optimizer).__name__} step: {used} implementation, {len(groups)} parameter groups taken '
                      f'as {len(merge_groups(groups)) if self.merge else len(groups)}', logger='current')
