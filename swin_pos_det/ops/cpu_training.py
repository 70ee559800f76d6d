"""Attention within windows for training on a CPU: the backward pass recomputes the scores."""
from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .heads import Rotation, split_heads
from .masks import WindowGroup, attn_masks
from .position_bias import PositionBias
from .runtime import is_tracing
from .windows import WindowPlan, window_partition, window_reverse

# Scores of all heads that the backward pass holds at once: 1 MB in float32, which stays in a core's cache.
MAX_SCORES = 2**18


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
    """Return the reason why these arguments are unsupported; None if they are supported."""
    if dropout:
        return 'dropout on attention weights'
    return 'traced graphs' if is_tracing() else None


class _RecomputedScores(torch.autograd.Function):
    """Attention whose backward pass recomputes the scores, some windows at a time.

    With ``P`` the attention weights and ``O = P V``: ``dV = P^T dO``, ``dP = dO V^T``,
    ``dS = P * (dP - rowsum(P * dP))``, ``dQ = scale * dS K``, ``dK = scale * dS^T Q``, and the gradient of the bias is
    the sum of ``dS`` over windows (Dao et al., FlashAttention, https://arxiv.org/abs/2205.14135, appendix B.2).
    The gradients are exact.
    """

    @staticmethod
    def forward(ctx: Any, windows: Tensor, bias: Optional[Tensor], groups: Sequence[WindowGroup], num_heads: int,
                scale: float) -> Tensor:
        """Compute (nW, N, C) from (nW, N, 3 C) and (heads, N, N)."""
        ctx.save_for_backward(windows, bias)  # not the result, which the next layer keeps in another layout
        ctx.groups, ctx.num_heads, ctx.scale = groups, num_heads, scale
        # Detached, as SDPA asks for requires_grad even where no gradient is recorded.
        q, k, v = split_heads(windows.detach(), num_heads)
        out = q.new_empty(q.shape[0], q.shape[2], num_heads, q.shape[3])
        for some, mask in attn_masks(None if bias is None else bias.detach(), groups, q):
            attended = F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=mask, scale=scale)
            out[some] = attended.transpose(1, 2)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        windows, bias = ctx.saved_tensors
        q, k, v = split_heads(windows, ctx.num_heads)
        grad = grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2)
        grad_windows, exact = torch.empty_like(windows), torch.promote_types(windows.dtype, torch.float32)
        grads = split_heads(grad_windows, ctx.num_heads)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
        at_once = max(1, MAX_SCORES // (ctx.num_heads * q.shape[2]**2))
        for some, mask in attn_masks(bias, ctx.groups, q, at_once):
            parts = [each[some] for each in (*grads, q, k, v, grad)]
            _write_gradients(*parts, grad_bias, mask, ctx.scale)
        return grad_windows, None if bias is None else grad_bias.to(bias.dtype), None, None, None


def _write_gradients(grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, q: Tensor, k: Tensor, v: Tensor, grad: Tensor,
                     grad_bias: Optional[Tensor], mask: Optional[Tensor], scale: float) -> None:
    """Write the gradients of some windows' q, k, v (nW, heads, N, channels of a head); add that of the bias."""
    exact = torch.promote_types(q.dtype, torch.float32)
    weights = torch.matmul(q, k.transpose(-2, -1)).to(exact).mul_(scale)
    if mask is not None:
        weights += mask
    # Both softmaxes in place: with new tensors, the third set of scores is where a training step needs most memory.
    torch.softmax(weights, -1, out=weights)
    grad_v.copy_(torch.matmul(weights.to(grad.dtype).transpose(-2, -1), grad))
    scores = torch.matmul(grad, v.transpose(-2, -1)).to(exact)
    torch.ops.aten._softmax_backward_data.out(scores, weights, -1, exact, grad_input=scores)
    del weights  # the sum over windows takes its place
    if grad_bias is not None:
        grad_bias += scores.sum(0)
    scores = scores.mul_(scale).to(q.dtype)
    grad_q.copy_(torch.matmul(scores, k))
    grad_k.copy_(torch.matmul(scores.transpose(-2, -1), q))
