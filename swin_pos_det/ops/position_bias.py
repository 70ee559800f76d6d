"""The position bias of the logits of a window: a table over offsets, or a number for each pair of tokens.

A table for windows of ``(h, w)`` has a row for each offset between two tokens, ``-(h - 1) .. h - 1`` down and
``-(w - 1) .. w - 1`` across: ``(2 h - 1) * (2 w - 1)`` rows, row-major, and a column for each head (Swin, section 3.2,
equation 4).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .runtime import tensor_cache
from .windows import Pair

# Indices of windows of at most 32 x 32 tokens are cached: (1024, 1024) int64 is 8 MB. That of a larger window, as with
# 'global', is made in each forward, since it grows with the fourth power of the side: 128 MB for 64 x 64.
MAX_CACHED_INDICES = 16
MAX_CACHED_AREA = 1024


@dataclass(frozen=True, eq=False)
class PositionBias:
    """The position bias of a window, as a table where the scheme has one.

    Attributes:
        window: height and width in tokens; ``N`` is their product.
        table: ((2 h - 1) * (2 w - 1), heads), for implementations that look offsets up; None if the bias is given as
            ``pairs``.
        pairs: (heads, N, N) [query, key]; None if there is a table.
    """

    window: Pair
    table: Optional[Tensor] = None
    pairs: Optional[Tensor] = None

    @property
    def requires_grad(self) -> bool:
        """Return whether the bias is learned."""
        return (self.table if self.pairs is None else self.pairs).requires_grad

    def dense(self) -> Tensor:
        """Return (heads, N, N): the number added to the logit of each query and key, differentiable."""
        return gather_bias(self.table, self.window) if self.pairs is None else self.pairs

    def __add__(self, other: PositionBias) -> PositionBias:
        if self.pairs is None and other.pairs is None:
            return PositionBias(self.window, table=self.table + other.table)
        return PositionBias(self.window, pairs=self.dense() + other.dense())


def table_size(window: Pair) -> Pair:
    """Return the number of offsets down and across in a window's table: ``(2 h - 1, 2 w - 1)``."""
    return 2 * window[0] - 1, 2 * window[1] - 1


def gather_bias(table: Tensor, window: Pair) -> Tensor:
    """Look up the offset of each pair of tokens of a window in its table.

    Args:
        table: ((2 h - 1) * (2 w - 1), heads).
        window: the table's own window (h, w).

    Returns:
        (heads, N, N), contiguous; entry ``[head, q, k]`` is added to the logit of query q and key k.
    """
    index = relative_position_index(window, table.device)
    return table.t().index_select(1, index.view(-1)).view(-1, *index.shape)


def relative_position_index(window: Pair, device: torch.device = torch.device('cpu')) -> Tensor:
    """Return, for each pair of tokens of a window, the row of its offset in the table.

    Args:
        window: height and width in tokens.
        device: where the index lives.

    Returns:
        (N, N) int64 with ``N = h * w``; entry ``[q, k]`` is the row of offset ``q - k``. Shared: do not write to it.
    """
    make = _cached_index if window[0] * window[1] <= MAX_CACHED_AREA else _make_index
    return make(tuple(window), torch.device(device))


def _make_index(window: Pair, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        rows = torch.arange(window[0], device=device)
        cols = torch.arange(window[1], device=device)
        down = rows[:, None] - rows[None, :] + window[0] - 1
        across = cols[:, None] - cols[None, :] + window[1] - 1
        index = down[:, None, :, None] * table_size(window)[1] + across[None, :, None, :]
        area = window[0] * window[1]
        return index.reshape(area, area)


_cached_index = tensor_cache(MAX_CACHED_INDICES)(_make_index)
