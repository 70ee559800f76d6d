"""Attention as plain matrix products, for what runs on the CPU.

In windows of few tokens they are faster than SDPA on the CPU, which takes 32 queries at a time there.
"""
from __future__ import annotations

from typing import Iterable, Optional, Tuple

import torch
from torch import Tensor

from .runtime import TRICKS

# Scores of all heads that are held at once: 4 MB in float32, which stay in a core's cache.
MAX_SCORES = 2**20
# In windows of fewer tokens than this, products head by head are faster than SDPA.
MAX_BMM_TOKENS = 192


def goes_by_head(dtype: torch.dtype, area: int) -> bool:
    """Whether windows of ``area`` tokens are attended to head by head."""
    return TRICKS['bmm'] and area < MAX_BMM_TOKENS and dtype in (torch.float32, torch.float64)


def windows_at_once(area: int) -> int:
    """Windows of ``area`` tokens whose scores of one head stay in a core's cache."""
    return max(1, MAX_SCORES // 2 // area**2)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """``softmax(q k^T * scale + mask)`` of (..., N, channels) -> (..., N, N), in float32 at least."""
    keys, exact = k.transpose(-2, -1), torch.promote_types(q.dtype, torch.float32)
    if q.dim() == 3 and q.dtype == exact:
        return torch.baddbmm(mask, q, keys, alpha=scale).softmax(-1)
    return torch.matmul(q, keys).to(exact).mul_(scale).add_(mask).softmax(-1)


def attend_by_head(q: Tensor, k: Tensor, v: Tensor, masks: Iterable[Tuple[slice, Optional[Tensor]]],
                   scale: float) -> Tensor:
    """Attention without gradients, head by head.

    The windows of one head are a batch of matrices as they lie in memory; those of all heads would be copied first.

    Args:
        q, k, v: (nW, heads, N, channels of a head).
        masks: of slices of the windows, see :func:`~.masks.attn_masks`.
        scale: factor on ``q k^T``.

    Returns:
        (nW, heads, N, channels of a head).
    """
    windows, heads, area, channels = q.shape
    out = q.new_empty(windows, area, heads, channels)
    zero = q.new_zeros(1, 1, 1, 1)
    for some, mask in masks:
        each = (zero if mask is None else mask).expand(-1, heads, -1, -1)
        for head in range(heads):
            weights = attention_weights(q[some, head], k[some, head], each[:, head], scale)
            out[some, :, head] = torch.bmm(weights, v[some, head])
    return out.transpose(1, 2)
