"""Queries, keys and values of all heads, which one projection makes side by side in one tensor."""
from __future__ import annotations

from typing import Callable, Optional, Tuple

from torch import Tensor

from .windows import WindowPlan, window_partition, window_reverse

Three = Tuple[Tensor, Tensor, Tensor]
# Rotates queries and keys (nW, heads, N, channels of a head) by their places in the window.
Rotation = Callable[[Tensor, Tensor], Tuple[Tensor, Tensor]]


def split_heads(windows: Tensor, num_heads: int) -> Three:
    """Split (nW, N, 3 C) into queries, keys and values, (nW, heads, N, channels of a head) each, without a copy."""
    packed = windows.view(*windows.shape[:2], 3, num_heads, -1)
    # Along this axis, and transposed one by one, so that the gradients are joined in one copy.
    q, k, v = packed.unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def window_heads(qkv: Tensor, plan: WindowPlan, num_heads: int, pad_value: Optional[Tensor],
                 rotate: Optional[Rotation]) -> Three:
    """Return queries, keys and values of the windows of (B, L, 3 C) tokens: (nW, heads, N, channels of a head) each."""
    q, k, v = split_heads(window_partition(qkv.flatten(0, 1), plan, pad_value), num_heads)
    return (q, k, v) if rotate is None else (*rotate(q, k), v)


def join_heads(attended: Tensor, plan: WindowPlan, like: Tensor) -> Tensor:
    """Join (nW, heads, N, channels of a head) to (B, L, C) tokens in reading order, ``like`` (B, L, 3 C) ones."""
    return window_reverse(attended.transpose(1, 2).flatten(2), plan).view(like.shape[0], like.shape[1], -1)
