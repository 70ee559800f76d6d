"""``softmax(q k^T * scale + bias + mask) v`` for the windows of a plan, in bounded memory."""
from __future__ import annotations

from typing import Any, Iterable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .heads import room_for_gradients
from .logits import added_logits
from .rows import blocks
from .tracing import is_tracing, is_watched
from .windows import WindowGroup

# Scores, of all heads, that the backward pass holds at once: 4 MB in float32, which stay in a core's cache.
MAX_SCORES = 2**20
# On the CPU, SDPA takes 32 queries at a time in windows of fewer tokens than this, and is then slower than plain matrix
# products that make a quarter of those scores at a time.
FEW_TOKENS = 192
# On CUDA, SDPA's backward pass fails with more windows than an axis of a grid may have blocks.
MAX_WINDOWS = {'cuda': 2**16 - 1}


def attend(q: Tensor,
           k: Tensor,
           v: Tensor,
           bias: Optional[Tensor],
           groups: Sequence[WindowGroup],
           scale: float,
           dropout: float = 0.) -> Tensor:
    """Attention within windows.

    Args:
        q, k, v: (nW, heads, N, channels of a head).
        bias: (heads, N, N), of the dtype of ``q``, added to the logits of every window. Default: none.
        groups: of the windows, in order, with their masks.
        scale: factor on ``q k^T``.
        dropout: on attention weights, 0 to 1.

    Returns:
        (nW, heads, N, channels of a head).
    """
    # Where the bias is learned, SDPA on the CPU keeps the N x N scores of every window for the backward pass.
    learned = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    if learned and q.device.type == 'cpu' and not dropout and not is_tracing():
        return _Recomputed.apply(q, k, v, bias, groups, scale)
    return _sdpa(q, k, v, bias, groups, scale, dropout)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor], groups: Sequence[WindowGroup], scale: float,
          dropout: float) -> Tensor:
    if _goes_by_products(q, dropout):
        return _by_products(q, k, v, added_logits(bias, groups, q, lambda count: blocks(count, _at_once(q))), scale)
    most = None if is_tracing() else MAX_WINDOWS.get(q.device.type)
    too_many = most is not None and q.shape[0] > most
    logits = list(added_logits(bias, groups, q, (lambda count: blocks(count, most)) if too_many else None))
    if len(logits) == 1:
        return attend_with(q, k, v, logits[0][1], scale, dropout)
    # Not by indexing, whose backward pass would fill up the gradient of each part with zeros.
    counts = [at.stop - at.start for at, _ in logits]
    parts = [attend_with(*of_part, added, scale, dropout)
             for *of_part, (_, added) in zip(*(of.split(counts) for of in (q, k, v)), logits)]
    # Transposed they are as they lie in memory.
    return torch.cat([part.transpose(1, 2) for part in parts]).transpose(1, 2)


def attend_with(q: Tensor, k: Tensor, v: Tensor, added: Optional[Tensor], scale: float, dropout: float = 0.) -> Tensor:
    """``softmax(q k^T * scale + added) v``, by what is fastest.

    Args:
        q, k, v: (nW, heads, N, channels of a head).
        added: (1 or nW, 1 or heads, N, N) or None.
        scale: factor on ``q k^T``.
        dropout: on attention weights, 0 to 1.

    Returns:
        (nW, heads, N, channels of a head).
    """
    if _goes_by_products(q, dropout):
        some = blocks(q.shape[0], _at_once(q))
        shared = added is None or added.shape[0] == 1
        return _by_products(q, k, v, ((at, added if shared else added[at]) for at in some), scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout, scale=scale)


def _goes_by_products(q: Tensor, dropout: float) -> bool:
    few = q.shape[2] < FEW_TOKENS and q.device.type == 'cpu' and q.dtype == torch.float32
    return few and not dropout and not is_tracing() and not is_watched() and not torch.is_grad_enabled()


def _at_once(q: Tensor) -> int:
    """Windows whose scores of one head, and what becomes of them, stay in a core's cache."""
    return max(1, MAX_SCORES // 2 // q.shape[2]**2)


def _by_products(q: Tensor, k: Tensor, v: Tensor, logits: Iterable[Tuple[slice, Optional[Tensor]]],
                 scale: float) -> Tensor:
    """Head by head: of one, the windows are a batch of matrices as they lie in memory; of all they would be copied."""
    windows, heads, area, channels = q.shape
    out = q.new_empty(windows, area, heads, channels)
    nothing = q.new_zeros(1, 1, 1, 1)
    for some, added in logits:
        each = (nothing if added is None else added).expand(-1, heads, -1, -1)
        for head in range(heads):
            weights = _weights(q[some, head], k[some, head], each[:, head], scale)
            out[some, :, head] = torch.bmm(weights, v[some, head])
    return out.transpose(1, 2)


def _weights(q: Tensor, k: Tensor, added: Tensor, scale: float) -> Tensor:
    """The attention weights (..., N, N) of queries and keys (..., N, channels), in float32 at least."""
    keys, exact = k.transpose(-2, -1), _exact(q)
    if q.dim() == 3 and q.dtype == exact:
        return torch.baddbmm(added, q, keys, alpha=scale).softmax(-1)
    return torch.matmul(q, keys).to(exact).mul_(scale).add_(added).softmax(-1)


class _Recomputed(torch.autograd.Function):
    """:func:`_sdpa` whose backward pass makes the scores anew, some windows at a time.

    With ``P`` the attention weights and ``O = P V``: ``dV = P^T dO``, ``dP = dO V^T``,
    ``dS = P * (dP - rowsum(P * dP))``, ``dQ = scale * dS K``, ``dK = scale * dS^T Q``, and the gradient of the bias is
    the sum of ``dS`` over windows (Dao et al., FlashAttention, https://arxiv.org/abs/2205.14135, appendix B.2).
    Exact, as nothing is approximated.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, groups: Sequence[WindowGroup],
                scale: float) -> Tensor:
        # Detached, as SDPA asks for requires_grad even where no gradient is recorded.
        out = _sdpa(q.detach(), k.detach(), v.detach(), bias.detach(), groups, scale, 0.)
        ctx.save_for_backward(q, k, v, bias)  # not the result, which what follows keeps in another order
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, bias = ctx.saved_tensors
        tensors, grads = (q, k, v, grad), room_for_gradients(q)
        grad_bias = torch.zeros_like(bias, dtype=_exact(bias))
        head_by_head = q.shape[2] < FEW_TOKENS and q.dtype == _exact(q)
        step = _at_once(q) if head_by_head else max(1, MAX_SCORES // bias.numel())

        for some, added in added_logits(bias, ctx.groups, q, lambda count: blocks(count, step)):
            for heads in range(q.shape[1]) if head_by_head else [slice(None)]:
                _backward_of([of[some, heads] for of in tensors], added[:, heads], ctx.scale,
                             [of[some, heads] for of in grads], grad_bias[heads])
        return (*grads, grad_bias.to(bias.dtype), None, None)


def _backward_of(tensors: Sequence[Tensor], added: Tensor, scale: float, grads: Sequence[Tensor],
                 grad_bias: Tensor) -> None:
    """The gradients of some windows and heads: into ``grads`` (of q, k, v), and onto ``grad_bias``."""
    q, k, v, grad = tensors
    weights = _weights(q, k, added, scale)
    grads[2].copy_(torch.matmul(weights.to(grad.dtype).transpose(-2, -1), grad))
    scores = torch.matmul(grad, v.transpose(-2, -1)).to(_exact(q))
    scores.sub_((scores * weights).sum(-1, keepdim=True)).mul_(weights)
    grad_bias += scores.sum(0)
    scores = scores.mul_(scale).to(q.dtype)
    grads[0].copy_(torch.matmul(scores, k))
    grads[1].copy_(torch.matmul(scores.transpose(-2, -1), q))


def _exact(like: Tensor) -> torch.dtype:
    """The dtype of softmax and of sums over windows: float32, or float64 for that."""
    return torch.promote_types(like.dtype, torch.float32)
