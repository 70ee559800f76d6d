"""Attention without the padding of windows, for some windows at a time."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..heads import split_heads
from ..masks import split
from ..products import attend_by_head, goes_by_head, windows_at_once
from ..runtime import TRICKS, without_autocast
from ..windows import WindowPlan
from .chunks import MAX_SLOTS
from .linear import Layer, prepared_linear, recurring_rows
from .unpadded import UnpaddedPlan, WindowBias, unpadded_plan


def can_drop_padding(attention: nn.Module, plan: WindowPlan) -> bool:
    """Whether :func:`attend_without_padding` can be called.

    Not where tokens are turned by their place in the window: then padding is not all alike.
    """
    return TRICKS['unpadded'] and (plan.pad_mask is None or not attention.position.turns)


def attend_without_padding(attention: nn.Module, tokens: Tensor, norm: Optional[nn.Module],
                           whole: WindowPlan) -> Tensor:
    """A ``WindowAttention`` without its last projection.

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
    """``softmax(q k^T * scale + mask) v`` of (nW, heads, N, channels of a head)."""
    if q.dtype == torch.float32 and goes_by_head(q.dtype, q.shape[2]):
        some = split(q.shape[0], windows_at_once(q.shape[2]))
        return attend_by_head(q, k, v, ((at, mask) for at in some), scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _projection(attention: nn.Module, plan: UnpaddedPlan) -> Layer:
    rows = recurring_rows(plan.rows(MAX_SLOTS))
    return prepared_linear(attention.qkv.weight, attention.projection_bias(), rows)


def _bias(attention: nn.Module, plan: UnpaddedPlan) -> Optional[WindowBias]:
    """The bias in float32 at least; zeros for schemes without one if padding or masks need something to add to."""
    found = attention.position.window_bias(attention, plan.window)
    bias = None if found is None else found.dense()
    if bias is None and any(group.pad_token or group.tokens.region is not None for group in plan.groups):
        area = plan.window[0] * plan.window[1]
        bias = torch.zeros(1, area, area, dtype=attention.qkv.weight.dtype)
    return None if bias is None else WindowBias(bias.to(torch.promote_types(bias.dtype, torch.float32)))
