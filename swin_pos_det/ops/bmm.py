"""Attention within small windows by matrix products head by head, without gradients."""
from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from .heads import Rotation, join_heads, window_heads
from .masks import attn_masks
from .position_bias import PositionBias
from .products import attend_by_head, goes_by_head, windows_at_once
from .runtime import is_plain_inference
from .windows import WindowPlan


def attention(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
              pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Tensor:
    """See :func:`~.window_attention.window_attention`."""
    q, k, v = window_heads(qkv, plan, num_heads, pad, rotate)
    dense = None if bias is None else bias.dense().to(q.dtype)
    masks = attn_masks(dense, plan.groups, q, windows_at_once(plan.area))
    return join_heads(attend_by_head(q, k, v, masks, scale), plan, qkv)


def unsupported(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
                pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Optional[str]:
    """The reason why it cannot be called; None if it can."""
    if not is_plain_inference():
        return 'gradients, traced graphs or active torch modes'
    if dropout:
        return 'dropout on attention weights'
    return None if qkv.dtype in (torch.float32, torch.float64) else f'{qkv.dtype}'


def is_faster(qkv: Tensor, plan: WindowPlan) -> bool:
    """Whether it can be called, and is faster than SDPA on a CPU."""
    return is_plain_inference() and qkv.dtype == torch.float32 and goes_by_head(qkv.dtype, plan.area)
