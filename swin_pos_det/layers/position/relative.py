"""Relative position from a learned table over offsets."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from ..relative_bias import gather_bias, resample_table, table_size
from .base import Draw, Pair, PositionScheme, register_position


@register_position('none')
@dataclass(frozen=True)
class NoPosition(PositionScheme):
    """Attention that does not know where tokens are, but for the windows that they are in ('no pos.' in Swin's table
    4): ``softmax(q k^T * scale + mask) v``."""


@register_position('relative')
@dataclass(frozen=True)
class Relative(PositionScheme):
    """A learned bias for each offset between two tokens and each head (Swin, section 3.2, equation 4).

    ``softmax(q k^T * scale + B + mask) v``, where ``B[q, k]`` is the row of offset ``q - k`` in
    ``relative_position_bias_table``, of shape ((2 h - 1) * (2 w - 1), heads) for windows of ``table_window_size``.
    For another window the table is resampled as a picture, see :func:`~swin_pos_det.layers.resample_table`.
    """

    parameters = ('relative_position_bias_table', )
    uses = ('table_window_size', 'resampling')

    def build(self, host: nn.Module) -> None:
        """The table, of zeros as mmdet's."""
        rows, cols = table_size(host.table_window_size)
        host.relative_position_bias_table = nn.Parameter(torch.zeros(rows * cols, host.num_heads))

    def draw(self, host: nn.Module, normal: Draw) -> None:
        """Normal, as the Swin authors do; mmdet leaves it at zero."""
        normal(host.relative_position_bias_table)

    def refit(self, name: str, value: Tensor, source: Optional[Pair], target: Pair, mode: str) -> Tensor:
        """The table on the grid of another window."""
        return value if source is None else resample_table(value, source, target, mode)

    def bias(self, host: nn.Module, window: Pair) -> Tensor:
        """(heads, N, N): the table, resampled and spread over the pairs of tokens."""
        table = resample_table(host.relative_position_bias_table, host.table_window_size, window, host.resampling)
        return gather_bias(table, window)


@register_position('relative_only')
@dataclass(frozen=True)
class RelativeOnly(Relative):
    """The table alone: ``softmax(B + mask) v`` ('rel. pos. w/o app.' in Swin's table 4).

    Logits do not depend on what the tokens are; the appearance term ``q k^T`` is left out. The projection of queries
    and keys stays, so that the parameters are those of 'relative', and gets gradients of zero.
    """

    appearance = False

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        """Queries of zero, which leave nothing of the appearance term."""
        return torch.zeros_like(q), k
