"""Feed-forward networks that keep one set of hidden channels for the backward pass instead of two."""
from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .optimizations import OPTIMIZATIONS
from .runtime import is_tracing, is_unmodified


def feed_forward(network: nn.Module, x: Tensor) -> Tensor:
    """Build the layers of a feed-forward network.

    Args:
        network: with ``layers``: ((linear, activation, dropout), linear, dropout), as mmcv's ``FFN`` has them, and
            remembered by :func:`~.runtime.record_modules`.
        x: (..., C).

    Returns:
        (..., C).
    """
    if not _can_recompute_gelu(network):
        return network.layers(x)
    (first, _, _), second, dropout = network.layers
    return dropout(gelu_linear(first(x), second.weight, second.bias))


def _can_recompute_gelu(network: nn.Module) -> bool:
    if not OPTIMIZATIONS['gelu_recompute'] or not torch.is_grad_enabled() or is_tracing() or not is_unmodified(network):
        return False
    _, activation, dropout = network.layers[0]
    return is_exact_gelu(activation) and dropout.p == 0


def is_exact_gelu(activation: nn.Module) -> bool:
    """Return whether an activation is GELU, without an approximation."""
    return type(activation) is nn.GELU and activation.approximate == 'none'


def gelu_linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Compute ``F.linear(F.gelu(x), weight, bias)`` with exact gradients and less memory.

    Autograd keeps the input of GELU and its output. Here the output is recomputed in the backward pass. In a Swin
    block it is a quarter of all that is kept.

    Args:
        x: (..., hidden channels).
        weight: (C, hidden channels), of any floating dtype; like ``bias`` it is cast to that of ``x``.
        bias: (C,) or None.

    Returns:
        (..., C).
    """
    return _GeluLinear.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class _GeluLinear(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ F.gelu(x).flatten(0, -2)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.gelu_backward(grad @ weight, x)
        return grad_x, grad_weight, grad_bias
