"""Regrouping of maps into patches, at sizes that may be symbols of a graph."""
from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .runtime import is_tracing
from .windows import Pair


def pad_to_multiple(maps: Tensor, multiple: Pair) -> Tensor:
    """Pad maps (B, C, H, W) with zeros at the bottom and right to the next multiples of (down, across).

    In a graph it is done at any size: a branch would restrict the graph to sizes that take it, or to the others.
    """
    (height, width), (down, across) = maps.shape[2:], multiple
    below, beside = (height + down - 1) // down * down - height, (width + across - 1) // across * across - width
    return F.pad(maps, (0, beside, 0, below)) if is_tracing() or below or beside else maps


def two_by_two(x: Tensor, size: Pair) -> Tensor:
    """Group (B, H * W, C) tokens as (B, H', 2, W', 2, C) with H', W' halves, rounded up; missing tokens are zeros."""
    maps = pad_to_multiple(x.unflatten(1, size).permute(0, 3, 1, 2), (2, 2)).permute(0, 2, 3, 1)
    return maps.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
