"""Whether a layer may be computed from its parameters, without calling it."""
from __future__ import annotations

from torch import nn


def is_plain(layer: nn.Module, *types: type) -> bool:
    """Whether ``layer`` has no hooks and is of one of ``types``: not of a subclass, as adapters often are."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return type(layer) in types and not any(hooks)
