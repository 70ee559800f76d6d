"""Attention within windows, with a relative position bias."""
from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from .linear import linear
from .relative_bias import gather_bias, resample_table, table_size
from .softmax_attention import attend
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

    def forward(self, x: Tensor, plan: WindowPlan, residual: Optional[Tensor] = None) -> Tensor:
        """Attend within the windows of ``plan``.

        Args:
            x: (B, L, C) tokens, normalised.
            plan: how the batch is cut into windows.
            residual: (B, L, C), added to the result.

        Returns:
            (B, L, C).
        """
        # Padding is zeros, which a linear layer maps to its bias: so only real tokens need projecting.
        qkv = linear(x, self.qkv).view(-1, 3 * self.embed_dims)
        windows = partition(qkv, plan, fill=self.qkv.bias)
        windows = windows.view(*windows.shape[:2], 3, self.num_heads, -1)
        q, k, v = windows.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.position_bias(plan.window).to(q.dtype)
        attended = attend(q, k, v, bias, plan.groups, self.scale, self.attn_drop_rate if self.training else 0.)
        x = merge(attended.transpose(1, 2).flatten(2), plan).view_as(x)
        if self.training and self.proj_drop.p:
            x = self.proj_drop(self.proj(x))
            return x if residual is None else residual + x
        return linear(x, self.proj, residual=residual)

    def extra_repr(self) -> str:
        return (f'embed_dims={self.embed_dims}, num_heads={self.num_heads}, '
                f'table_window_size={self.table_window_size}, resampling={self.resampling!r}')
