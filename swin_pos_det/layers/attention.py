"""Attention within windows: projections and position. The softmax is ``ops.window_attention``."""
from __future__ import annotations

import math
from functools import partial
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from ..ops.reference import attention_weights
from ..ops.runtime import changes_result, has_hooks
from ..ops.window_attention import window_attention
from ..ops.windows import Pair, WindowPlan
from .position import PositionSetting, build_position

ATTENTIONS = ('dot', 'cosine')

# Cosine attention: the first and the largest factor of the logits (Swin V2, section 3.2, and the authors' code).
FIRST_LOGIT_SCALE = 10.
MAX_LOGIT_SCALE = 100.
# A query or key whose length is at most this counts as zero and gets no gradient. Zero tokens, such as padding without
# a key bias, are common. With F.normalize's eps of 1e-12 they would be NaN in float16, where that is 0, and even when
# computed in float32, as here, they would get gradients that overflow float16.
MIN_QK_NORM = 1e-4


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows (W-MSA and SW-MSA; Swin, section 3.2).

    ``softmax(q k^T * scale + bias + mask) v`` for each head and window. The position scheme adds position to
    attention, by a bias or otherwise, see :class:`~.position.PositionScheme`; by default the bias comes from a
    learned table over offsets. Parameters have the names and shapes of mmdet's ``WindowMSA``; those that only
    Swin V2 has are named as in its authors' code.

    With ``attention='cosine'`` logits are ``s cos(q, k) + bias + mask``, where ``s = exp(logit_scale)`` is learned for
    each head and at most 100 (Swin V2, https://arxiv.org/abs/2111.09883, section 3.2, equation 2, with ``s`` for its
    ``1 / tau``). Lengths and ``s`` are computed in float32 at least, since their squares and exponentials overflow
    float16.

    Args:
        embed_dims: channels C, a multiple of ``num_heads``.
        num_heads: heads.
        table_window_size: the window (h, w) that the position parameters are learned for; None for schemes that have
            none.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: factor on ``q k^T``. Default: ``(C / num_heads) ** -0.5``. Not for 'cosine'; no effect if the scheme
            leaves out ``q k^T``.
        attn_drop_rate: dropout on attention weights, 0 to 1.
        proj_drop_rate: dropout on the output, 0 to 1.
        resampling: how the table is resampled, see :func:`~.relative_bias.resample_table`.
        position: the scheme, in the forms of :func:`~.position.build_position`.
        attention: 'dot' or 'cosine'.
        key_bias: with ``qkv_bias``, whether keys have one too. Swin V2 has none: its biases of queries and values are
            parameters of their own, ``q_bias`` and ``v_bias``.

    Raises:
        SettingError: for an unknown attention or position, or settings that exclude each other.
    """

    def __init__(self,
                 embed_dims: int,
                 num_heads: int,
                 table_window_size: Optional[Pair],
                 qkv_bias: bool = True,
                 qk_scale: Optional[float] = None,
                 attn_drop_rate: float = 0.,
                 proj_drop_rate: float = 0.,
                 resampling: str = 'bicubic',
                 position: PositionSetting = 'relative',
                 attention: str = 'dot',
                 key_bias: bool = True) -> None:
        super().__init__()
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.head_dims = embed_dims // num_heads
        self.table_window_size = table_window_size
        self.attn_drop_rate = attn_drop_rate
        self.resampling = resampling
        self.position = build_position(position)
        self.attention = attention
        self._check(qk_scale)
        if not self.position.appearance:
            self.scale = 0.  # 'relative_only': not a branch, so that queries and keys get gradients, of zeros, for DDP
        elif attention == 'cosine':
            self.scale = 1.  # normalize_qk multiplies queries by s
        else:
            self.scale = qk_scale or self.head_dims**-0.5
        self.position.build(self)
        if attention == 'cosine':
            self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(FIRST_LOGIT_SCALE)))
        self.q_bias = self.v_bias = None
        if qkv_bias and not key_bias:
            self.q_bias = nn.Parameter(torch.zeros(embed_dims))
            self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias and key_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def _check(self, qk_scale: Optional[float]) -> None:
        if self.attention not in ATTENTIONS:
            raise SettingError(f'attention must be one of {ATTENTIONS}, got {self.attention!r}')
        if self.attention == 'cosine' and qk_scale is not None:
            raise SettingError(f"attention='cosine' learns the factor of its logits: remove qk_scale={qk_scale}")
        if self.attention == 'cosine' and not self.position.appearance:
            raise SettingError(f'position={self.position.name!r} leaves out the appearance term, which '
                               "attention='cosine' changes: use one of them only")

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """Attend within the windows of ``plan``.

        Args:
            x: (B, L, C) tokens: after the block's norm with ``norm_order='pre'``, before it with 'res-post'.
            plan: how the batch is partitioned into windows.

        Returns:
            (B, L, C).
        """
        x = window_attention(**self.inputs(x, plan), dropout=self.attn_drop_rate if self.training else 0.)
        return self.proj_drop(self.proj(x))

    def weights(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """Return attention weights (nW, heads, N, N) [query, key] of the nW windows of N tokens of all images.

        They are in the plan's order, see :class:`~swin_pos_det.ops.windows.WindowPlan`; each row sums to 1.
        """
        return attention_weights(**self.inputs(x, plan))

    def inputs(self, x: Tensor, plan: WindowPlan) -> Dict[str, Any]:
        """Return the arguments of :func:`~swin_pos_det.ops.window_attention.window_attention` for (B, L, C) tokens."""
        return dict(
            qkv=self.project(x),
            plan=plan,
            bias=self.position.window_bias(self, plan.window),
            num_heads=self.num_heads,
            scale=self.scale,
            pad=None if plan.pad_mask is None else self.pad_value(x),
            rotate=partial(self.position.rotate, self, window=plan.window) if self.position.turns else None)

    def project(self, x: Tensor) -> Tensor:
        """Project (..., C) tokens to queries, keys and values, (..., 3 C), by :meth:`normalize_qk` for 'cosine'.

        ``q k^T`` times ``scale`` are the logits before bias and mask.
        """
        if self.q_bias is None:
            qkv = self.qkv(x)
        elif type(self.qkv) is nn.Linear and not has_hooks(self.qkv):
            qkv = F.linear(x, self.qkv.weight, self.projection_bias())
        else:  # hooks of any kind, and adapters (LoRA) in place of the layer, must see a call
            qkv = self.qkv(x) + self.projection_bias()
        return self.normalize_qk(qkv)

    def projection_bias(self) -> Optional[Tensor]:
        """Return the bias (3 C,) of queries, keys and values; None without one."""
        if self.q_bias is None:
            return self.qkv.bias
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

    def pad_value(self, x: Tensor) -> Optional[Tensor]:
        """Return (3 C,) queries, keys and values of padding, which is zeros before projection; None for zeros."""
        # Hooks of the backward pass do not change the value, so they need no call.
        if type(self.qkv) is nn.Linear and not changes_result(self.qkv):
            bias = self.projection_bias()
            return None if bias is None else self.normalize_qk(bias)
        return self.project(x.new_zeros(1, self.embed_dims)).squeeze(0)  # hooks, adapters

    def normalize_qk(self, qkv: Tensor) -> Tensor:
        """Scale queries and keys of (..., 3 C) so that ``q k^T`` is ``s cos(q, k)``; with 'dot' return ``qkv``."""
        if self.attention != 'cosine':
            return qkv
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dims)).unbind(-3)
        return torch.stack((*self._directions(q, k), v), dim=-3).flatten(-3)

    def _directions(self, q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor]:
        """Return queries (..., heads, channels) scaled to the head's logit scale, and keys of length 1."""
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = self.logit_scale.to(exact).clamp(max=math.log(MAX_LOGIT_SCALE)).exp().squeeze(1)
        return (_direction(q.to(exact)) * scale).to(q.dtype), _direction(k.to(exact)).to(k.dtype)

    def position_bias(self, window: Pair) -> Optional[Tensor]:
        """Return the bias for windows of ``window`` = (h, w): (num_heads, N, N), differentiable; None without one."""
        bias = self.position.window_bias(self, window)
        return None if bias is None else bias.dense()

    def extra_repr(self) -> str:
        return (f'embed_dims={self.embed_dims}, num_heads={self.num_heads}, '
                f'table_window_size={self.table_window_size}, resampling={self.resampling!r}, '
                f'position={self.position}, attention={self.attention!r}')


def _direction(x: Tensor) -> Tensor:
    """Return ``x / |x|`` along the last axis; zeros where that is shorter than :data:`MIN_QK_NORM`."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > MIN_QK_NORM, length, math.inf)
