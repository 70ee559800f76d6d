"""Relative position from a learned table over offsets."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from ...ops.position_bias import table_size
from ...ops.windows import Pair
from ..relative_bias import resample_table
from .base import Normal, PositionScheme, register_position


@register_position('none')
@dataclass(frozen=True)
class NoPosition(PositionScheme):
    """Attention without position ('no pos.' in Swin's table 4): ``softmax(q k^T * scale + mask) v``."""


@register_position('relative')
@dataclass(frozen=True)
class Relative(PositionScheme):
    """A learned bias for each offset between two tokens and each head (Swin, section 3.2, equation 4).

    ``softmax(q k^T * scale + B + mask) v``, where ``B[q, k]`` is the row of offset ``q - k`` in
    ``relative_position_bias_table``, of shape ((2 h - 1) * (2 w - 1), heads) for windows of ``table_window_size``.
    For another window the table is resampled as a picture, see :func:`~swin_pos_det.layers.resample_table`.
    """

    parameters = ('relative_position_bias_table', )
    heads_axis = {'relative_position_bias_table': (2, 1)}
    uses = ('table_window_size', 'resampling')

    def build(self, host: nn.Module) -> None:
        """Make the table, of zeros as in mmdet."""
        rows, cols = table_size(host.table_window_size)
        host.relative_position_bias_table = nn.Parameter(torch.zeros(rows * cols, host.num_heads))

    def reset_parameters(self, host: nn.Module, normal: Normal) -> None:
        """Draw it from the normal distribution, as the Swin authors do; mmdet leaves it at zero."""
        normal(host.relative_position_bias_table)

    def convert(self, name: str, value: Tensor, source: Optional[Pair], target: Pair, mode: str) -> Tensor:
        """Resample the table to the grid of another window."""
        return value if source is None else resample_table(value, source, target, mode)

    def table(self, host: nn.Module, window: Pair) -> Tensor:
        """Return the learned table, resampled to the window."""
        return resample_table(host.relative_position_bias_table, host.table_window_size, window, host.resampling)


@register_position('relative_only')
@dataclass(frozen=True)
class RelativeOnly(Relative):
    """The table alone: ``softmax(B + mask) v`` ('rel. pos. w/o app.' in Swin's table 4).

    Logits do not depend on the tokens; the appearance term ``q k^T`` is left out. The projection of queries and keys
    stays, so that the parameters are those of 'relative', and gets gradients of zero.
    """

    appearance = False
