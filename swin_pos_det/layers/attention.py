"""Attention within windows: projections, position, and softmax."""
from __future__ import annotations

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from .compact import CompactPlan, WindowBias, compact_plan
from .heads import split_heads
from .linear import Layer, prepared_layer, prepared_linear, recurring_rows
from .plain import is_plain
from .position import PositionSetting, build_position
from .precision import without_autocast
from .rows import ROWS
from .softmax_attention import attend, attend_with
from .windows import WindowPlan, merge, partition

Pair = Tuple[int, int]

ATTENTIONS = ('dot', 'cosine')

# Cosine attention: what logits are multiplied by at first and at most (Swin V2, section 3.2, and the authors' code).
FIRST_LOGIT_SCALE = 10.
LARGEST_LOGIT_SCALE = 100.
# A query or key no longer than this has no direction: it counts as zero, and gets no gradient. Tokens of zeros, such as
# padding without a key bias, are not rare. Divided by the usual 1e-12, which is 0 in float16, they become NaN; and what
# is divided by anything small has gradients that overflow float16.
SHORTEST = 1e-4
# Slots of windows at a time, where attention goes by windows.
SLOTS = 4 * ROWS


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows (W-MSA and SW-MSA; Swin, section 3.2).

    ``softmax(q k^T * scale + bias + mask) v`` for each head and window. How tokens are told where they are, by a bias
    or otherwise, is the position scheme's, see :class:`~.position.PositionScheme`; by default the bias comes from a
    learned table over offsets. Parameters are named and shaped as mmdet's ``WindowMSA`` names them, and those that
    only Swin V2 has as its authors do.

    With ``attention='cosine'`` logits are ``s cos(q, k) + bias + mask``, where ``s`` is learned for each head and at
    most 100 (Swin V2, https://arxiv.org/abs/2111.09883, section 3.2, equation 2, with ``s`` for its ``1 / tau``).
    Lengths and ``s`` are computed in float32 at least, as their squares and exponentials overflow float16.

    Args:
        embed_dims: channels C, a multiple of ``num_heads``.
        num_heads: heads.
        table_window_size: the window (h, w) that the position parameters are learned for; None for schemes that have
            none.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: factor on ``q k^T``. Default: ``(C / num_heads) ** -0.5``.
        attn_drop_rate: dropout on attention weights, 0 to 1.
        proj_drop_rate: dropout on the output, 0 to 1.
        resampling: how the table is resampled, see :func:`~.relative_bias.resample_table`.
        position: the scheme, in the forms of :func:`~.position.build_position`.
        attention: 'dot' or 'cosine'.
        key_bias: with ``qkv_bias``, whether keys have one too. Swin V2 has none: its biases of queries and values are
            parameters of their own, ``q_bias`` and ``v_bias``.

    Raises:
        ValueError: for an unknown attention or position, or settings that exclude each other.
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
        # Cosine attention scales queries instead, by a learned factor.
        self.scale = 1. if attention == 'cosine' else qk_scale or self.head_dims**-0.5
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
            raise SettingError(f"attention='cosine' learns the factor of its logits: qk_scale={qk_scale} cannot be")
        if self.attention == 'cosine' and not self.position.appearance:
            raise SettingError(f'position={self.position.name!r} leaves out the appearance term, which '
                               "attention='cosine' is about: give one of them up")

    def position_bias(self, window: Pair) -> Optional[Tensor]:
        """The bias for windows of ``window`` = (h, w): (num_heads, N, N), differentiable; None without one."""
        return self.position.bias(self, window)

    def projection_bias(self) -> Optional[Tensor]:
        """(3 C,) the bias of queries, keys and values; None without one."""
        if self.q_bias is None:
            return self.qkv.bias
        return torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))

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
        bias = fill = self.projection_bias()
        if plan.outside is not None and (type(self.qkv) is not nn.Linear or 'forward' in vars(self.qkv)):
            fill = self._project(x.new_zeros(1, self.embed_dims), bias).squeeze(0)
        q, k, v = self._heads(partition(self._project(x, bias).flatten(0, 1), plan, fill=fill), plan.window)
        bias = self.position_bias(plan.window)
        attended = attend(q, k, v, None if bias is None else bias.to(q.dtype), plan.groups, self.scale,
                          self.attn_drop_rate if self.training else 0.)
        return attended.transpose(1, 2).flatten(2)

    def _project(self, x: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Queries, keys and values of (..., C) tokens; ``bias``: of :meth:`projection_bias`."""
        if self.q_bias is None:
            return self.qkv(x)
        return F.linear(x, self.qkv.weight, bias) if is_plain(self.qkv, nn.Linear) else self.qkv(x) + bias

    def compact(self, plan: WindowPlan) -> Optional[CompactPlan]:
        """The plan for :meth:`attend_by_windows`; None where it cannot be used.

        It cannot where tokens are turned by their place in the window: then padding is not all alike.
        """
        return None if plan.outside is not None and self.position.turns else compact_plan(plan)

    def attend_by_windows(self, tokens: Tensor, norm: Optional[nn.Module], plan: CompactPlan) -> Tensor:
        """:meth:`attend` for inference: without padding, and some windows after the other, so that all stays in cache.

        Args:
            tokens: (B * L, C), before the norm.
            norm: applied to them first, if given.
            plan: of :meth:`compact`.

        Returns:
            (B * L, C), for each token the result.
        """
        project, bias, out = self._prepared_projection(plan), self._bias_in_full(plan), None
        for group in plan.groups:
            with without_autocast('cpu'):
                added = None if bias is None else group.added(bias)
            for some in group.blocks(SLOTS):
                rows = tokens.index_select(0, group.gather[some].flatten())
                rows = (rows if norm is None else norm(rows)).view(-1, group.area, self.embed_dims)
                if group.stand_in is not None:
                    rows[:, -1] = 0
                q, k, v = self._heads(project(rows.flatten(0, 1)).view(*rows.shape[:2], -1), plan.window)
                attended = attend_with(q, k, v, None if added is None else added.to(q.dtype), self.scale)
                out = attended.new_empty(tokens.shape) if out is None else out
                own = slice(0, group.area - (group.stand_in is not None))
                out.index_copy_(0, group.gather[some, own].flatten(),
                                attended.transpose(1, 2)[:, own].flatten(2).flatten(0, 1))
        return out

    def _bias_in_full(self, plan: CompactPlan) -> Optional[WindowBias]:
        """The bias in float32 at least; zeros for schemes without one if padding or masks need something to add to."""
        bias = self.position_bias(plan.window)
        if bias is None and any(group.stand_in or group.tokens.region is not None for group in plan.groups):
            area = plan.window[0] * plan.window[1]
            bias = torch.zeros(1, area, area, dtype=self.qkv.weight.dtype)
        return None if bias is None else WindowBias(bias.to(torch.promote_types(bias.dtype, torch.float32)))

    def _prepared_projection(self, plan: CompactPlan) -> Layer:
        rows = recurring_rows(plan.rows(SLOTS))
        if self.q_bias is None:
            return prepared_layer(self.qkv, rows, nn.Linear)
        bias = self.projection_bias()
        if not is_plain(self.qkv, nn.Linear):
            return lambda x: self._project(x, bias)
        return prepared_linear(self.qkv.weight, bias, rows)

    def _heads(self, windows: Tensor, window: Pair) -> Tuple[Tensor, Tensor, Tensor]:
        """(nW, N, 3 C) -> queries, keys and values (nW, heads, N, channels of a head), position worked into them."""
        q, k, v = split_heads(windows, self.num_heads)
        if self.attention == 'cosine':
            q, k = self._directions(q, k)
        q, k = self.position.rotate(self, q, k, window)
        return q, k, v

    def _directions(self, q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor]:
        """Queries of the length of the head's logit scale and keys of length 1, so that their products are logits."""
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = self.logit_scale.to(exact).clamp(max=math.log(LARGEST_LOGIT_SCALE)).exp()
        return (_direction(q.to(exact)) * scale).to(q.dtype), _direction(k.to(exact)).to(k.dtype)

    def extra_repr(self) -> str:
        return (f'embed_dims={self.embed_dims}, num_heads={self.num_heads}, '
                f'table_window_size={self.table_window_size}, resampling={self.resampling!r}, '
                f'position={self.position}, attention={self.attention!r}')


def _direction(x: Tensor) -> Tensor:
    """``x / |x|`` along the last axis; zeros where that is shorter than :data:`SHORTEST`."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > SHORTEST, length, math.inf)
