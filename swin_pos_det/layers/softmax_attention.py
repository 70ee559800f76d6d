"""``softmax(q k^T * scale + bias + mask) v`` for the windows of a plan, in bounded memory."""
from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .rows import blocks
from .tracing import is_tracing, is_watched
from .windows import WindowGroup

# Scores, of all heads, that the backward pass holds at once: 4 MB in float32, which stay in a core's cache.
MAX_SCORES = 2**20
# On the CPU, SDPA takes 32 queries at a time in windows of fewer tokens than this, and is then slower than plain matrix
# products that make a quarter of those scores at a time.
FEW_TOKENS = 192


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
    parts = [attend_with(q[at], k[at], v[at], added, scale, dropout) for at, added in added_logits(bias, groups, q)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
    few = q.shape[2] < FEW_TOKENS and q.device.type == 'cpu' and q.dtype == torch.float32
    if few and not dropout and not is_tracing() and not is_watched() and not torch.is_grad_enabled():
        return _by_products(q, k, v, added, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout, scale=scale)


def _by_products(q: Tensor, k: Tensor, v: Tensor, added: Optional[Tensor], scale: float) -> Tensor:
    windows, area = q.shape[0], q.shape[2]
    parts = []
    for some in blocks(windows, max(1, MAX_SCORES // 2 // area**2)):
        own = added if added is None or added.shape[0] == 1 else added[some]
        parts.append(_of_each_head(q[some], k[some], v[some], own, scale))
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(1, 2)


def _of_each_head(q: Tensor, k: Tensor, v: Tensor, added: Optional[Tensor], scale: float) -> Tensor:
    """(nW, N, heads, channels of a head).

    Of one head the windows are a batch of matrices as they lie in memory. Those of all heads would be copied first.
    """
    heads = q.shape[1]
    added = q.new_zeros(1, 1, 1, 1) if added is None else added
    each = zip(added.expand(-1, heads, -1, -1).unbind(1), q.unbind(1), k.transpose(-2, -1).unbind(1), v.unbind(1))
    return torch.stack([torch.bmm(torch.baddbmm(logits, query, key, alpha=scale).softmax(-1), value)
                        for logits, query, key, value in each], dim=2)


Split = Callable[[int], Iterable[slice]]


def added_logits(bias: Optional[Tensor], groups: Sequence[WindowGroup], like: Tensor,
                 split: Optional[Split] = None) -> Iterator[Tuple[slice, Optional[Tensor]]]:
    """What is added to the logits of some windows after the other.

    Args:
        bias: (heads, N, N) or None.
        groups: of the windows, in order.
        like: a tensor of the dtype and device wanted.
        split: how to split a number of windows. Default: a group at once.

    Yields:
        Windows, and (1 or windows, 1 or heads, N, N) or None.
    """
    start = 0
    for group in groups:
        whole = slice(0, group.count)
        added = _added(bias, group, like) if group.shares_mask else None
        for some in [whole] if split is None else split(group.count):
            own = added if group.shares_mask else _added(bias, group.part(some), like)
            at = slice(start + some.start, start + some.stop) if len(groups) > 1 or split else slice(None)
            yield at, own
        start = start + group.count


def _added(bias: Optional[Tensor], group: WindowGroup, like: Tensor) -> Optional[Tensor]:
    added = group.mask(like.dtype)
    if bias is not None:
        added = bias.unsqueeze(0) if added is None else bias + added
    return added if added is None or like.device.type != 'cuda' else _aligned(added)


def _aligned(mask: Tensor) -> Tensor:
    """The same values with rows that start at multiples of 16 bytes, as CUDA's memory-efficient kernels need them."""
    size = mask.shape[-1]
    return F.pad(mask, (0, -size % 8))[..., :size]


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
        grads = [torch.empty_like(of) for of in (q, k, v)]
        grad_bias = torch.zeros_like(bias, dtype=_exact(bias))
        step = max(1, MAX_SCORES // bias.numel())

        for some, added in added_logits(bias, ctx.groups, q, lambda count: blocks(count, step)):
            _backward_of(some, (q, k, v, grad), added, ctx.scale, grads, grad_bias)
        return (*grads, grad_bias.to(bias.dtype), None, None)


def _backward_of(some: slice, tensors: Sequence[Tensor], added: Tensor, scale: float, grads: Sequence[Tensor],
                 grad_bias: Tensor) -> None:
    """The gradients of some windows: into ``grads`` (of q, k, v), and onto ``grad_bias``."""
    q, k, v, grad = (of[some] for of in tensors)
    weights = torch.matmul(q, k.transpose(-2, -1)).to(_exact(q)).mul_(scale).add_(added).softmax(-1)
    grads[2][some] = torch.matmul(weights.to(grad.dtype).transpose(-2, -1), grad)
    scores = torch.matmul(grad, v.transpose(-2, -1)).to(_exact(q))
    scores.sub_((scores * weights).sum(-1, keepdim=True)).mul_(weights)
    grad_bias += scores.sum(0)
    scores = scores.mul_(scale).to(q.dtype)
    grads[0][some] = torch.matmul(scores, k)
    grads[1][some] = torch.matmul(scores.transpose(-2, -1), q)


def _exact(like: Tensor) -> torch.dtype:
    """The dtype of softmax and of sums over windows: float32, or float64 for that."""
    return torch.promote_types(like.dtype, torch.float32)
