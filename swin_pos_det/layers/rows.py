"""Layers that act on single tokens, applied to some tokens at a time."""
from __future__ import annotations

from typing import List

import torch
from torch import Tensor

from .tracing import is_tracing, is_watched

# Tokens at a time. What a feed-forward network makes of so many stays in a core's cache, even where it has 4 * 768
# channels; and there is enough of it for the matrix products.
ROWS = 1024
# From so many numbers on, 3 MB in float32, it pays: smaller maps stay in the cache as they are.
ENOUGH_NUMBERS = 3 * 2**18


def blocks(length: int, most: int) -> List[slice]:
    """Slices of at most ``most`` rows that together are all ``length`` rows, in order."""
    return [slice(first, min(first + most, length)) for first in range(0, length, most)]


def recurring_blocks(length: int, most: int, least: int) -> List[slice]:
    """:func:`blocks` whose sizes come again with other lengths: ``most``, then powers of two of what is left.

    Powers below ``least`` are not split off.
    """
    slices, first = [], 0
    while first < length:
        left = length - first
        power = 1 << (left.bit_length() - 1)
        size = most if left >= most else power if power >= least else left
        slices.append(slice(first, first + size))
        first += size
    return slices


def can_go_by_rows(x: Tensor) -> bool:
    """Whether layers are applied to some rows after the other: on a CPU, which has a cache, and without gradients.

    Args:
        x: the map, of any shape.
    """
    plain = not torch.is_grad_enabled() and not is_tracing() and not is_watched()
    return x.device.type == 'cpu' and plain and x.numel() >= ENOUGH_NUMBERS
