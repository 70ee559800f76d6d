"""Queries, keys and values of all heads, as one projection makes them: side by side in one tensor."""
from __future__ import annotations

from typing import Any, Tuple

import torch
from torch import Tensor

from .tracing import is_tracing

Three = Tuple[Tensor, Tensor, Tensor]


def split_heads(windows: Tensor, num_heads: int) -> Three:
    """Queries, keys and values, (nW, heads, N, channels of a head) each, of (nW, N, 3 C), without a copy."""
    packed = windows.view(*windows.shape[:2], 3, num_heads, -1)
    recorded = torch.is_grad_enabled() and packed.requires_grad and not is_tracing()
    return _Split.apply(packed) if recorded else _views(packed)


def room_for_gradients(like: Tensor) -> Three:
    """Uninitialised gradients of queries, keys and values like ``like``, in one tensor as :func:`split_heads` wants."""
    windows, heads, area, channels = like.shape
    return _views(like.new_empty(windows, area, 3, heads, channels))


def _views(packed: Tensor) -> Three:
    return packed.permute(2, 0, 3, 1, 4).unbind(0)


class _Split(torch.autograd.Function):
    """:func:`_views` whose backward pass copies once, where autograd would do so twice.

    Not at all if the gradients come as views of :func:`room_for_gradients`.
    """

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Three:
        ctx.shape = packed.shape
        return _views(packed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        packed = grads[0]._base
        if packed is not None and packed.shape == ctx.shape and packed.is_contiguous() and all(
                grad._base is packed and grad.shape == view.shape and grad.stride() == view.stride()
                and grad.storage_offset() == view.storage_offset() for grad, view in zip(grads, _views(packed))):
            return packed
        return torch.stack([grad.transpose(1, 2) for grad in grads], dim=2)
