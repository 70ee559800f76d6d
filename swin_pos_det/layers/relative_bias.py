"""Relative position bias: from a learned table over offsets to the bias of each pair of tokens.

A table for windows of ``(h, w)`` has a row for each offset between two tokens, ``-(h - 1) .. h - 1`` down and
``-(w - 1) .. w - 1`` across: ``(2 h - 1) * (2 w - 1)`` rows, row-major, and a column for each head (Swin, section 3.2,
equation 4). Seen as a picture, the table can be resampled to serve another window.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import RESAMPLING_MODES
from ..errors import SettingError
from .tracing import fake_mode, is_tracing

Pair = Tuple[int, int]


# Kept are the indices of windows up to 32 x 32 tokens, 8 MB each; of larger ones (whole maps) none.
MAX_CACHED_INDICES = 16
MAX_CACHED_AREA = 1024
MAX_CACHED_MATRICES = 64  # a few KB each


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
    # What is made while a graph is traced may be a stand-in for a tensor, of no use to anyone else.
    cached = window[0] * window[1] <= MAX_CACHED_AREA and not is_tracing()
    request = tuple(window), torch.device(device)
    return _cached_index(fake_mode(), *request) if cached else _make_index(*request)


@lru_cache(maxsize=MAX_CACHED_INDICES)
def _cached_index(_: Any, window: Pair, device: torch.device) -> Tensor:
    return _make_index(window, device)


def _make_index(window: Pair, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        rows = torch.arange(window[0], device=device)
        cols = torch.arange(window[1], device=device)
        down = rows[:, None] - rows[None, :] + window[0] - 1
        across = cols[:, None] - cols[None, :] + window[1] - 1
        index = down[:, None, :, None] * table_size(window)[1] + across[None, :, None, :]
        area = window[0] * window[1]
        return index.reshape(area, area)


def resample_table(table: Tensor, source: Pair, target: Pair, mode: str = 'bicubic') -> Tensor:
    """Resample a table to the grid of another window, as the Swin authors' ``load_pretrained`` does.

    Each head's table is a picture of ``(2 h - 1, 2 w - 1)`` pixels, resized by
    ``F.interpolate(mode, align_corners=False)``: it is stretched or squeezed, so that the farthest offsets of one
    window become the farthest of the other. ``'geometric'`` instead leaves an offset of one token where it is, see
    :func:`geometric_matrix`. Differentiable with respect to ``table``.

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
        raise SettingError(
            f'a relative position bias table for window {source} has {rows} * {cols} = {rows * cols} rows, '
            f'got {table.shape[0]}')
    if mode not in RESAMPLING_MODES:
        raise SettingError(f'resampling mode must be one of {RESAMPLING_MODES}, got {mode!r}')
    if tuple(source) == tuple(target):
        return table
    # Not every device can interpolate half precision.
    full = table.float() if table.dtype in (torch.float16, torch.bfloat16) else table
    if mode == 'geometric':
        down, across = (_placed_matrix(s, t, full.dtype, full.device) for s, t in zip(source, target))
        return torch.einsum('ty,yxh,ux->tuh', down, full.unflatten(0, (rows, cols)), across).flatten(0, 1).to(
            table.dtype)
    picture = full.t().reshape(1, -1, rows, cols)
    # align_corners may only be said where it has a meaning.
    corners = None if mode == 'nearest' else False
    resized = F.interpolate(picture, size=table_size(target), mode=mode, align_corners=corners)
    return resized.flatten(2).squeeze(0).t().to(table.dtype)


def geometric_matrix(source: int, target: int) -> Tensor:
    """Along one axis, what each offset of the target takes from each offset of the source.

    The learned offsets ``0, 1, 2, ..`` are laid out at ``0, 1, 1 + q, 1 + q + q^2, ..``, with the ``q >= 1`` that
    brings the last of them to the target's last; in between goes a cubic spline (of lower degree where there are too
    few offsets). So near offsets keep their place and only far ones are stretched. A smaller target takes the near
    offsets as they are (``q = 1``). The enlarging is that of BEiT (https://arxiv.org/abs/2106.08254, code).

    Args:
        source: the window's side that was learned.
        target: the side wanted.

    Returns:
        (2 target - 1, 2 source - 1) float64 on the CPU; every row sums to 1. Shared: do not write to it.
    """
    with torch.inference_mode(False):
        return torch.from_numpy(_geometric_matrix(source, target))


@lru_cache(maxsize=MAX_CACHED_MATRICES)
def _geometric_matrix(source: int, target: int) -> np.ndarray:
    # Here, as importing it takes half a second that the other modes need not wait for.
    from scipy.interpolate import make_interp_spline
    if source == 1:
        return np.ones((2 * target - 1, 1))
    steps = _geometric_ratio(source - 1, target - 1)**np.arange(source - 1)
    far = np.cumsum(steps)
    places = np.concatenate([-far[::-1], [0.], far])
    spline = make_interp_spline(places, np.eye(2 * source - 1), k=min(3, 2 * source - 2))
    wanted = np.clip(np.arange(1 - target, target), places[0], places[-1])  # rounding must not extrapolate
    return spline(wanted)


def _placed_matrix(*request: Any) -> Tensor:
    """:func:`geometric_matrix` where it is needed: copying it there in each forward would make a GPU wait."""
    return _place_matrix(*request) if is_tracing() else _cached_matrix(fake_mode(), *request)


@lru_cache(maxsize=MAX_CACHED_MATRICES)
def _cached_matrix(_: Any, *request: Any) -> Tensor:
    return _place_matrix(*request)


def _place_matrix(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return geometric_matrix(source, target).to(device, dtype)


def _geometric_ratio(terms: int, total: float) -> float:
    """The ``q >= 1`` with ``1 + q + .. + q^(terms - 1) = total``; 1 if the total is no more than the terms."""
    low, high = 1., max(1., float(total))
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if np.sum(middle**np.arange(terms)) > total else (middle, high)
    return low if total > terms else 1.


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
