"""The eager formula of attention within windows, textbook style. It can return the attention weights."""
from __future__ import annotations

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import Rotation, join_heads, window_heads
from .masks import joined_mask
from .position_bias import PositionBias
from .runtime import without_autocast
from .windows import WindowPlan


def attention(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
              pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Tensor:
    """See :func:`~.window_attention.window_attention`."""
    weights, v = _weights(qkv, plan, bias, num_heads, scale, pad, rotate)
    with without_autocast(qkv):
        attended = F.dropout(weights, dropout) @ v.to(weights.dtype)
    return join_heads(attended.to(qkv.dtype), plan, qkv)


def attention_weights(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], *, num_heads: int, scale: float,
                      pad: Optional[Tensor] = None, rotate: Optional[Rotation] = None) -> Tensor:
    """Return the attention weights of the same arguments.

    Returns:
        (nW, heads, N, N) [query, key] of the windows in the plan's order, float32 or float64; rows sum to 1.
    """
    return _weights(qkv, plan, bias, num_heads, scale, pad, rotate)[0]


def _weights(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
             pad: Optional[Tensor], rotate: Optional[Rotation]) -> Tuple[Tensor, Tensor]:
    """Return attention weights, and values."""
    q, k, v = window_heads(qkv, plan, num_heads, pad, rotate)
    exact = torch.promote_types(qkv.dtype, torch.float32)
    q, k = q.to(exact), k.to(exact)
    with without_autocast(qkv):
        logits = q @ k.transpose(-2, -1) * scale + joined_mask(plan.groups, q)
        if bias is not None:
            logits = logits + bias.dense().to(exact)
        return logits.softmax(-1), v
