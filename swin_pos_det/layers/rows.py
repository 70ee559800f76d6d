"""Layers that act on single tokens, applied to some tokens at a time."""
from __future__ import annotations

from typing import Callable, List

import torch
from torch import Tensor

from .tracing import fake_mode, is_tracing

# Tokens at a time. What a feed-forward network makes of so many stays in a core's cache, even where it has 4 * 768
# channels; and there is enough of it for the matrix products.
ROWS = 1024


def blocks(length: int, most: int = ROWS) -> List[slice]:
    """Slices of at most ``most`` rows that together are all ``length`` rows, in order."""
    return [slice(first, min(first + most, length)) for first in range(0, length, most)]


def can_go_by_rows(x: Tensor) -> bool:
    """Whether :func:`by_rows` pays: on a CPU, which has a cache, where no gradient wants all that is in between."""
    plain = not torch.is_grad_enabled() and not is_tracing() and fake_mode() is None
    return x.device.type == 'cpu' and plain


def by_rows(function: Callable[..., None], *tensors: Tensor) -> None:
    """``function(*tensors)`` for a function that treats each row alone.

    A chain of layers on a large feature map writes each layer's result to memory and reads it back. Applied to a
    thousand rows at a time, all results but the last stay in the cache.

    Args:
        function: of tensors (n, ...) for any n, one for each of ``tensors``; it writes its result into one of them.
        tensors: (L, ...) each, those with what it reads and the one for what it makes.
    """
    for some in blocks(tensors[0].shape[0]):
        function(*(each[some] for each in tensors))
