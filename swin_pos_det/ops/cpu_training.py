"""Attention within windows for training on a CPU: the backward pass recomputes the scores."""
from __future__ import annotations

from typing import Any, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .heads import Rotation, split_heads
from .masks import WindowGroup, attn_masks
from .position_bias import PositionBias
from .products import MAX_SCORES, attend_by_head, attention_weights, goes_by_head, windows_at_once
from .runtime import has_active_torch_mode, is_tracing
from .windows import WindowPlan, window_partition, window_reverse


def attention(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
              pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Tensor:
    """See :func:`~.window_attention.window_attention`."""
    windows = window_partition(qkv.flatten(0, 1), plan, pad)
    if rotate is not None:
        q, k, v = split_heads(windows, num_heads)
        windows = torch.stack([each.transpose(1, 2) for each in (*rotate(q, k), v)], dim=2).flatten(2)
    dense = None if bias is None else bias.dense().to(windows.dtype)
    attended = _RecomputedScores.apply(windows, dense, plan.groups, num_heads, scale)
    return window_reverse(attended, plan).view(qkv.shape[0], qkv.shape[1], -1)


def unsupported(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
                pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Optional[str]:
    """The reason why it cannot be called; None if it can."""
    if dropout:
        return 'dropout on attention weights'
    return 'traced graphs' if is_tracing() else None


class _RecomputedScores(torch.autograd.Function):
    """Attention whose backward pass recomputes the scores, some windows at a time.

    With ``P`` the attention weights and ``O = P V``: ``dV = P^T dO``, ``dP = dO V^T``,
    ``dS = P * (dP - rowsum(P * dP))``, ``dQ = scale * dS K``, ``dK = scale * dS^T Q``, and the gradient of the bias is
    the sum of ``dS`` over windows (Dao et al., FlashAttention, https://arxiv.org/abs/2205.14135, appendix B.2).
    Exact, as nothing is approximated.
    """

    @staticmethod
    def forward(ctx: Any, windows: Tensor, bias: Optional[Tensor], groups: Sequence[WindowGroup], num_heads: int,
                scale: float) -> Tensor:
        """(nW, N, 3 C) and (heads, N, N) -> (nW, N, C)."""
        ctx.save_for_backward(windows, bias)  # not the result, which is kept in another order by what follows
        ctx.groups, ctx.num_heads, ctx.scale = groups, num_heads, scale
        # Detached, as SDPA asks for requires_grad even where no gradient is recorded.
        q, k, v = split_heads(windows.detach(), num_heads)
        bias = None if bias is None else bias.detach()
        if _by_head(q):
            return attend_by_head(q, k, v, _masks(q, bias, groups), scale).transpose(1, 2).flatten(2)
        out = q.new_empty(q.shape[0], q.shape[2], num_heads, q.shape[3])
        for at, mask in attn_masks(bias, groups, q):
            attended = F.scaled_dot_product_attention(q[at], k[at], v[at], attn_mask=mask, scale=scale)
            out[at] = attended.transpose(1, 2)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        windows, bias = ctx.saved_tensors
        tensors = split_heads(windows, ctx.num_heads)
        q, out_grad = tensors[0], grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2)
        grad_windows = torch.empty_like(windows)
        grads = split_heads(grad_windows, ctx.num_heads)
        zero, exact = q.new_zeros(1, 1, 1, 1), torch.promote_types(q.dtype, torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
        for some, mask in _masks(q, bias, ctx.groups):
            mask = (zero if mask is None else mask).expand(-1, ctx.num_heads, -1, -1)
            for heads in range(ctx.num_heads) if _by_head(q) else [slice(None)]:
                scores = _backward_of([of[some, heads] for of in (*tensors, out_grad)], mask[:, heads], ctx.scale,
                                      [of[some, heads] for of in grads])
                if grad_bias is not None:
                    grad_bias[heads] += scores
        return grad_windows, None if bias is None else grad_bias.to(bias.dtype), None, None, None


def _by_head(q: Tensor) -> bool:
    return goes_by_head(q.dtype, q.shape[2]) and not has_active_torch_mode()


def _masks(q: Tensor, bias: Optional[Tensor],
           groups: Sequence[WindowGroup]) -> Iterator[Tuple[slice, Optional[Tensor]]]:
    """Masks of as many windows as are taken at once."""
    heads, area = q.shape[1:3]
    at_once = windows_at_once(area) if _by_head(q) else max(1, MAX_SCORES // (heads * area**2))
    return attn_masks(bias, groups, q, at_once)


def _backward_of(tensors: Sequence[Tensor], mask: Tensor, scale: float, grads: Sequence[Tensor]) -> Tensor:
    """Write the gradients of some windows and heads into ``grads`` (of q, k, v).

    Returns:
        (1 or heads, N, N) or (N, N): the gradient of their bias.
    """
    q, k, v, grad = tensors
    weights = attention_weights(q, k, mask, scale)
    grads[2].copy_(torch.matmul(weights.to(grad.dtype).transpose(-2, -1), grad))
    scores = torch.matmul(grad, v.transpose(-2, -1)).to(weights.dtype)
    scores.sub_((scores * weights).sum(-1, keepdim=True)).mul_(weights)
    grad_bias = scores.sum(0)
    scores = scores.mul_(scale).to(q.dtype)
    grads[0].copy_(torch.matmul(scores, k))
    grads[1].copy_(torch.matmul(scores.transpose(-2, -1), q))
    return grad_bias
