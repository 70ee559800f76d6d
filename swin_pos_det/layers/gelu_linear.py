"""GELU and the linear layer behind it, which keep one set of hidden channels for the backward pass instead of two."""
from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def gelu_linear(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """``F.linear(F.gelu(x), weight, bias)`` with exact gradients and less memory.

    Autograd keeps what goes into GELU and what comes out of it. Here the latter is made again in the backward pass. In
    a Swin block this is a quarter of all that is kept.

    Args:
        x: (..., hidden channels).
        weight: (C, hidden channels), of any floating dtype; like ``bias`` it is taken in that of ``x``.
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
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = rows.t() @ F.gelu(x).flatten(0, -2)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.gelu_backward(grad @ weight, x)
        return of_x, of_weight, of_bias
