"""Attention within windows, with a relative position bias."""
from __future__ import annotations

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .relative_bias import gather_bias, resample_table, table_size
from .rows import ROWS, blocks
from .softmax_attention import added_logits, attend
from .windows import WindowPlan, merge, partition

Pair = Tuple[int, int]


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows (W-MSA and SW-MSA; Swin, section 3.2).

    ``softmax(q k^T * scale + bias + mask) v`` for each head and window. The bias comes from a learned table over
    offsets, which keeps the grid of ``table_window_size``; for any other window it is resampled in the forward, so
    gradients reach the learned table. Parameters are named and shaped as mmdet's ``WindowMSA`` names them.

    Args:
        embed_dims: channels C, a multiple of ``num_heads``.
        num_heads: heads.
        table_window_size: the window (h, w) whose offsets the learned table holds.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: factor on ``q k^T``. Default: ``(C / num_heads) ** -0.5``.
        attn_drop_rate: dropout on attention weights, 0 to 1.
        proj_drop_rate: dropout on the output, 0 to 1.
        resampling: how the table is resampled, see :func:`~.relative_bias.resample_table`.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 table_window_size: Pair,
                 qkv_bias: bool = True,
                 qk_scale: Optional[float] = None,
                 attn_drop_rate: float = 0.,
                 proj_drop_rate: float = 0.,
                 resampling: str = 'bicubic') -> None:
        super().__init__()
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.table_window_size = table_window_size
        self.scale = qk_scale or (embed_dims // num_heads)**-0.5
        self.attn_drop_rate = attn_drop_rate
        self.resampling = resampling
        rows, cols = table_size(table_window_size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows * cols, num_heads))
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def position_bias(self, window: Pair) -> Tensor:
        """The bias for windows of ``window`` = (h, w): (num_heads, N, N), differentiable."""
        table = resample_table(self.relative_position_bias_table, self.table_window_size, window, self.resampling)
        return gather_bias(table, window)

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """Attend within the windows of ``plan``.

        Args:
            x: (B, L, C) tokens, normalised.
            plan: how the batch is cut into windows.

        Returns:
            (B, L, C).
        """
        x = merge(self.attend(x, plan), plan).view_as(x)
        return self.proj_drop(self.proj(x))

    def attend(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """All but the last projection: (B, L, C) tokens -> (nW, N, C), for each slot of the windows the result."""
        # Padding is zeros, which a linear layer maps to its bias: so only real tokens need projecting.
        windows = partition(self.qkv(x).flatten(0, 1), plan, fill=self.qkv.bias)
        q, k, v = self._split_heads(windows)
        bias = self.position_bias(plan.window).to(q.dtype)
        attended = attend(q, k, v, bias, plan.groups, self.scale, self.attn_drop_rate if self.training else 0.)
        return attended.transpose(1, 2).flatten(2)

    def attend_by_windows(self, tokens: Tensor, norm: nn.Module, plan: WindowPlan) -> Tensor:
        """:meth:`attend` for inference, some windows at a time, so that what they make stays in the cache.

        Here padding is projected too: only for plans with little of it.

        Args:
            tokens: (B * L, C), before the norm.
            norm: applied to them first.
            plan: how the batch is cut into windows.

        Returns:
            (nW, N, C).
        """
        area = plan.window[0] * plan.window[1]
        bias, out = self.position_bias(plan.window), None
        for some, added in added_logits(bias, plan.groups, bias, lambda count: blocks(count, max(1, 2 * ROWS // area))):
            slots = slice(some.start * area, some.stop * area)
            rows = norm(tokens.index_select(0, plan.gather[slots]))
            if plan.outside is not None:
                rows = rows.masked_fill(plan.outside[slots, None], 0)
            q, k, v = self._split_heads(self.qkv(rows).view(-1, area, 3 * self.embed_dims))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype), scale=self.scale)
            attended = attended.transpose(1, 2).flatten(2)
            if out is None:
                out = attended.new_empty(plan.num_windows, area, self.embed_dims)
            out[some] = attended
        return out

    def _split_heads(self, windows: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """(nW, N, 3 C) -> queries, keys and values (nW, heads, N, channels of a head)."""
        windows = windows.view(*windows.shape[:2], 3, self.num_heads, -1)
        return windows.permute(2, 0, 3, 1, 4).unbind(0)

    def extra_repr(self) -> str:
        return (f'embed_dims={self.embed_dims}, num_heads={self.num_heads}, '
                f'table_window_size={self.table_window_size}, resampling={self.resampling!r}')
