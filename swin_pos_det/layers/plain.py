"""Whether a layer may be computed from its parameters, without calling it."""
from __future__ import annotations

from torch import nn


def is_plain(layer: nn.Module, *types: type) -> bool:
    """Whether ``layer`` has no hooks and is of one of ``types``: not of a subclass, as adapters often are."""
    return type(layer) in types and not has_hooks(layer)


def has_hooks(layer: nn.Module) -> bool:
    """Whether somebody waits for calls of ``layer``, or of all modules, or has put another forward in its place."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return 'forward' in vars(layer) or any(hooks) or nn.modules.module._has_any_global_hook()
