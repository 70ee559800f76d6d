"""Resampling of relative position bias tables: from the grid of one window to that of another.

A table (see :mod:`swin_pos_det.ops.position_bias`) is a picture over offsets for each head.
"""
from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import RESAMPLING_MODES
from ..errors import SettingError
from ..ops.position_bias import table_size
from ..ops.runtime import copy_to, tensor_cache
from ..ops.windows import Pair

MAX_CACHED_MATRICES = 64  # a few KB each


def resample_table(table: Tensor, source: Pair, target: Pair, mode: str = 'bicubic') -> Tensor:
    """Resample a table to the grid of another window, as the Swin authors' ``load_pretrained`` does.

    Each head's table is a picture of ``(2 h - 1, 2 w - 1)`` pixels, resized by
    ``F.interpolate(mode, align_corners=False)``: it is stretched or squeezed, so that the farthest offsets of one
    window become the farthest of the other. ``'geometric'`` instead keeps the value at an offset of one token, see
    :func:`geometric_matrix`. Differentiable with respect to ``table``.

    Args:
        table: ((2 h - 1) * (2 w - 1), heads), floating point.
        source: the window (h, w) that the table is for.
        target: the wanted window.
        mode: one of :data:`RESAMPLING_MODES`.

    Returns:
        The table for ``target``, of the same dtype; ``table`` itself if the windows are equal.

    Raises:
        ValueError: if the table does not have the rows of ``source``, or the mode is unknown.
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
    full = table.to(torch.promote_types(table.dtype, torch.float32))
    if mode == 'geometric':
        down, across = (_placed_matrix(s, t, full.dtype, full.device) for s, t in zip(source, target))
        return torch.einsum('ty,yxh,ux->tuh', down, full.unflatten(0, (rows, cols)), across).flatten(0, 1).to(
            table.dtype)
    picture = full.t().reshape(1, -1, rows, cols)
    # torch refuses align_corners for modes where it has no meaning.
    corners = None if mode == 'nearest' else False
    resized = F.interpolate(picture, size=table_size(target), mode=mode, align_corners=corners)
    return resized.flatten(2).squeeze(0).t().to(table.dtype)


def geometric_matrix(source: int, target: int) -> Tensor:
    """Return the weights, along one axis, of the source's offsets in each offset of the target.

    The learned offsets ``0, 1, 2, ..`` are placed at ``0, 1, 1 + q, 1 + q + q^2, ..``, with the ``q >= 1`` that
    brings the last of them to the target's last, and interpolated by a cubic spline (of lower degree for
    too few offsets). So near offsets keep their place and only far ones are stretched. A smaller target uses the near
    offsets unchanged (``q = 1``). The enlargement is that of BEiT (https://arxiv.org/abs/2106.08254, code).

    Args:
        source: side of the learned window.
        target: side of the wanted window.

    Returns:
        (2 target - 1, 2 source - 1) float64 on the CPU; every row sums to 1. Shared: do not write to it.
    """
    with torch.inference_mode(False):
        return torch.from_numpy(_geometric_matrix(source, target))


@lru_cache(maxsize=MAX_CACHED_MATRICES)
def _geometric_matrix(source: int, target: int) -> np.ndarray:
    # Imported here, since it takes half a second that the other modes do not need.
    from scipy.interpolate import make_interp_spline
    if source == 1:
        return np.ones((2 * target - 1, 1))
    steps = _geometric_ratio(source - 1, target - 1)**np.arange(source - 1)
    far = np.cumsum(steps)
    places = np.concatenate([-far[::-1], [0.], far])
    spline = make_interp_spline(places, np.eye(2 * source - 1), k=min(3, 2 * source - 2))
    wanted = np.clip(np.arange(1 - target, target), places[0], places[-1])  # rounding must not extrapolate
    return spline(wanted)


@tensor_cache(MAX_CACHED_MATRICES)
def _placed_matrix(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return :func:`geometric_matrix` on a device, cached: a copy in each forward would make a GPU wait."""
    with torch.inference_mode(False):
        return copy_to(geometric_matrix(source, target).to(dtype), device)


def _geometric_ratio(terms: int, total: float) -> float:
    """Return the ``q >= 1`` with ``1 + q + .. + q^(terms - 1) = total``; 1 if the total is no more than the terms."""
    low, high = 1., max(1., float(total))
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if np.sum(middle**np.arange(terms)) > total else (middle, high)
    return low if total > terms else 1.
