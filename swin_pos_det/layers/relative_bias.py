"""Relative position bias: from a learned table over offsets to the bias of each pair of tokens.

A table for windows of ``(h, w)`` has a row for each offset between two tokens, ``-(h - 1) .. h - 1`` down and
``-(w - 1) .. w - 1`` across: ``(2 h - 1) * (2 w - 1)`` rows, row-major, and a column for each head (Swin, section 3.2,
equation 4). Seen as a picture, the table can be resampled to serve another window.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = Tuple[int, int]

RESAMPLING_MODES = ('bicubic', 'bilinear', 'nearest')

# Kept are the indices of windows up to 32 x 32 tokens, 8 MB each; of larger ones (whole maps) none.
MAX_CACHED_INDICES = 16
MAX_CACHED_AREA = 1024


def table_size(window: Pair) -> Pair:
    """Offsets down and across of a window's table: ``(2 h - 1, 2 w - 1)``."""
    return 2 * window[0] - 1, 2 * window[1] - 1


def relative_position_index(window: Pair, device: torch.device = torch.device('cpu')) -> Tensor:
    """For each pair of tokens of a window the row of its offset in the table.

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


_cached_index = lru_cache(maxsize=MAX_CACHED_INDICES)(_make_index)


def resample_table(table: Tensor, source: Pair, target: Pair, mode: str = 'bicubic') -> Tensor:
    """Resample a table to the grid of another window, as the Swin authors' ``load_pretrained`` does.

    Each head's table is a picture of ``(2 h - 1, 2 w - 1)`` pixels, resized by
    ``F.interpolate(mode, align_corners=False)``. Differentiable with respect to ``table``.

    Args:
        table: ((2 h - 1) * (2 w - 1), heads), floating point.
        source: the window (h, w) that the table is for.
        target: the window wanted.
        mode: one of :data:`RESAMPLING_MODES`.

    Returns:
        The table for ``target``, of the same dtype; ``table`` itself where the windows agree.

    Raises:
        ValueError: if the table has not the rows of ``source``, or the mode is unknown.
    """
    rows, cols = table_size(source)
    if table.shape[0] != rows * cols:
        raise ValueError(
            f'a relative position bias table for window {source} has {rows} * {cols} = {rows * cols} rows, '
            f'got {table.shape[0]}')
    if mode not in RESAMPLING_MODES:
        raise ValueError(f'resampling mode must be one of {RESAMPLING_MODES}, got {mode!r}')
    if tuple(source) == tuple(target):
        return table
    # Not every device can interpolate half precision.
    full = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    picture = full.t().reshape(1, -1, rows, cols)
    # align_corners may only be said where it has a meaning.
    corners = None if mode == 'nearest' else False
    resized = F.interpolate(picture, size=table_size(target), mode=mode, align_corners=corners)
    return resized.flatten(2).squeeze(0).t().to(table.dtype)


def gather_bias(table: Tensor, window: Pair) -> Tensor:
    """Spread a table over the pairs of tokens of its window.

    Args:
        table: ((2 h - 1) * (2 w - 1), heads).
        window: the table's own window (h, w).

    Returns:
        (heads, N, N), contiguous; entry ``[head, q, k]`` is added to the logit of query q and key k.
    """
    index = relative_position_index(window, table.device)
    return table.t().index_select(1, index.view(-1)).view(-1, *index.shape)
