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


def merge_groups(groups: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Join parameter groups of equal settings, in the order in which the settings come first.

    Args:
        groups: of an optimizer; not changed.

    Returns:
        Groups with the same parameters and settings, as few as possible. A group with a setting that is not a plain
        number, flag, text or tuple of these stays separate.
    """
    merged: Dict[Any, Dict[str, Any]] = {}
    for number, group in enumerate(groups):
        settings = {name: value for name, value in group.items() if name not in ('params', 'param_names')}
        plain = all(isinstance(value, (int, float, str, tuple, type(None))) for value in settings.values())
        key: Any = tuple(sorted(settings.items(), key=lambda item: item[0])) if plain else number
        merged.setdefault(key, dict(settings, params=[]))['params'].extend(group['params'])
    return list(merged.values())


def use_merged_groups(optimizer: Optimizer) -> Tuple[Any, Any]:
    """Let ``optimizer.step()`` use merged groups, and all other code the original groups.

    MMEngine makes a group for each parameter as soon as one has a learning rate or weight decay of its own; torch then
    updates each by itself. Merged groups are updated by few operators that act on many parameters, with the same
    arithmetic for each. As the groups are restored after the step, schedulers, logs and checkpoints do not change.

    Returns:
        The handles of the hooks; ``remove()`` of both undoes it.
    """
    whole: List[List[Dict[str, Any]]] = []

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if whole:  # the last step raised
            optimizer.param_groups = whole.pop()
        whole.append(optimizer.param_groups)
        optimizer.param_groups = merge_groups(optimizer.param_groups)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        optimizer.param_groups = whole.pop()

    return optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)


def choose_implementation(optimizer: Optimizer, implementation: str) -> str:
    """Let an optimizer update all parameters of a group at once.

    Args:
        optimizer: changed in place, if it has the implementation.
        implementation: 'fused': one kernel; 'foreach': few; 'auto': fused if torch has it for the device, dtype and
            optimizer, else foreach on a GPU, else torch's choice; 'default': torch's choice.

    Returns:
        The implementation in use.

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
        implementation = possible[0]
    elif implementation not in possible:
        raise SettingError(f'{type(optimizer).__name__} of torch {torch.__version__} has no {implementation!r} '
                           f'implementation for these parameters; it has {", ".join([*possible, "auto", "default"])}')
    if implementation != 'default':
        for group in [*optimizer.param_groups, optimizer.defaults]:
            group.update(fused=implementation == 'fused', foreach=implementation == 'foreach')
    return implementation


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
        wrappers = runner.optim_wrapper
        for wrapper in wrappers.values() if hasattr(wrappers, 'optim_wrappers') else [wrappers]:
            used = choose_implementation(wrapper.optimizer, self.implementation)
            groups = wrapper.optimizer.param_groups
            if self.merge:
                use_merged_groups(wrapper.optimizer)
            print_log(f'{type(wrapper.optimizer).__name__} step: {used} implementation, {len(groups)} parameter groups '
                      f'taken as {len(merge_groups(groups)) if self.merge else len(groups)}', logger='current')
