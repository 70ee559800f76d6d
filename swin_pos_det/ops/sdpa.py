"""Attention within windows by torch's ``scaled_dot_product_attention``, with the masks of groups of windows."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import Rotation, join_heads, window_heads
from .masks import attn_masks
from .position_bias import PositionBias
from .runtime import is_tracing
from .windows import WindowPlan

# On CUDA, SDPA's backward pass fails with more windows than an axis of a grid may have blocks.
MAX_WINDOWS = {'cuda': 2**16 - 1}


def attention(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
              pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Tensor:
    """See :func:`~.window_attention.window_attention`."""
    q, k, v = window_heads(qkv, plan, num_heads, pad, rotate)
    most = None if is_tracing() else MAX_WINDOWS.get(q.device.type)
    at_once = most if most is not None and q.shape[0] > most else None
    dense = None if bias is None else bias.dense().to(q.dtype)
    masks = list(attn_masks(dense, plan.groups, q, at_once))
    if len(masks) == 1:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[0][1], dropout_p=dropout, scale=scale)
        return join_heads(attended, plan, qkv)
    # Not by indexing, whose backward pass would fill up the gradient of each part with zeros.
    counts = [at.stop - at.start for at, _ in masks]
    parts = zip(*(of.split(counts) for of in (q, k, v)), masks)
    # Transposed, parts are joined as they lie in memory.
    attended = torch.cat([F.scaled_dot_product_attention(*part, attn_mask=mask, dropout_p=dropout, scale=scale)
                          .transpose(1, 2) for *part, (_, mask) in parts])
    return join_heads(attended.transpose(1, 2), plan, qkv)
