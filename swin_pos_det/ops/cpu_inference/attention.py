"""Attention without the padding of windows, for some windows at a time."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..masks import split
from ..optimizations import OPTIMIZATIONS
from ..runtime import without_autocast
from ..windows import WindowPlan
from .chunks import MAX_SLOTS
from .linear import Layer, prepared_linear, recurring_rows
from .unpadded import UnpaddedPlan, WindowBias, unpadded_plan

# In windows of fewer tokens, products head by head are faster than SDPA, which processes 32 queries at a time.
MAX_BMM_TOKENS = 192
# Scores of one head that are computed at once: 2 MB in float32, which stay in a core's cache.
MAX_SCORES = 2**19


def can_drop_padding(attention: nn.Module, plan: WindowPlan) -> bool:
    """Return whether :func:`attend_without_padding` can be called.

    False for schemes that rotate tokens by their place in the window: then padding is not all alike.
    """
    return OPTIMIZATIONS['unpadded'] and (plan.pad_mask is None or not attention.position.turns)


def attend_without_padding(attention: nn.Module, tokens: Tensor, norm: Optional[nn.Module],
                           whole: WindowPlan) -> Tensor:
    """Compute a ``WindowAttention`` without its last projection.

    Args:
        attention: the module.
        tokens: (B * L, C), before the norm.
        norm: applied to them first, if given.
        whole: the plan, with padding.

    Returns:
        (B * L, C) in reading order.
    """
    plan = unpadded_plan(whole)
    project, bias, out = _projection(attention, plan), _bias(attention, plan), None
    for group in plan.groups:
        with without_autocast(tokens):
            mask = None if bias is None else group.attn_mask(bias)
        for some in group.chunks(MAX_SLOTS):
            x = tokens.index_select(0, group.gather[some].flatten())
            x = (x if norm is None else norm(x)).view(-1, group.area, attention.embed_dims)
            if group.pad_token is not None:
                x[:, -1] = 0
            qkv = attention.normalize_qk(project(x.flatten(0, 1)))
            q, k, v = split_heads(qkv.view(*x.shape[:2], -1), attention.num_heads)
            if attention.position.turns:
                q, k = attention.position.rotate(attention, q, k, plan.window)
            attended = _attend(q, k, v, None if mask is None else mask.to(q.dtype), attention.scale)
            out = attended.new_empty(tokens.shape) if out is None else out
            own = slice(0, group.area - (group.pad_token is not None))
            out.index_copy_(0, group.gather[some, own].flatten(),
                            attended.transpose(1, 2)[:, own].flatten(2).flatten(0, 1))
    return out


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], scale: float) -> Tensor:
    """Compute ``softmax(q k^T * scale + mask) v`` of (nW, heads, N, channels of a head), mask (1, heads, N, N)."""
    if q.dtype == torch.float32 and q.shape[2] < MAX_BMM_TOKENS and OPTIMIZATIONS['bmm']:
        return _attend_by_head(q, k, v, mask, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], scale: float) -> Tensor:
    """Attend one head at a time, whose windows are a batch of matrices in memory; those of all heads need a copy."""
    windows, heads, area, channels = q.shape
    out = q.new_empty(windows, area, heads, channels)
    mask = (q.new_zeros(1, 1, 1, 1) if mask is None else mask).expand(-1, heads, -1, -1)
    for some in split(windows, max(1, MAX_SCORES // area**2)):
        for head in range(heads):
            logits = torch.baddbmm(mask[:, head], q[some, head], k[some, head].transpose(1, 2), alpha=scale)
            out[some, :, head] = torch.bmm(logits.softmax(-1), v[some, head])
    return out.transpose(1, 2)


def _projection(attention: nn.Module, plan: UnpaddedPlan) -> Layer:
    rows = recurring_rows(plan.rows(MAX_SLOTS))
    return prepared_linear(attention.qkv.weight, attention.projection_bias(), rows)


def _bias(attention: nn.Module, plan: UnpaddedPlan) -> Optional[WindowBias]:
    """Return the bias in float32 or wider; zeros for schemes without one if padding or masks must be added."""
    found = attention.position.window_bias(attention, plan.window)
    bias = None if found is None else found.dense()
    if bias is None and any(group.pad_token or group.tokens.region is not None for group in plan.groups):
        area = plan.window[0] * plan.window[1]
        bias = torch.zeros(1, area, area, dtype=attention.qkv.weight.dtype)
    return None if bias is None else WindowBias(bias.to(torch.promote_types(bias.dtype, torch.float32)))
