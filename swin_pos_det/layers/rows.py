"""Layers that act on single tokens, applied to some tokens at a time."""
from __future__ import annotations

from typing import Callable, List

import torch
from torch import Tensor

from .tracing import is_tracing

# Tokens at a time. What a feed-forward network makes of so many stays in a core's cache, even where it has 4 * 768
# channels; and there is enough of it for the matrix products.
ROWS = 1024


def blocks(length: int, most: int = ROWS) -> List[slice]:
    """Slices of at most ``most`` rows that together are all ``length`` rows, in order."""
    return [slice(first, min(first + most, length)) for first in range(0, length, most)]


def can_go_by_rows(x: Tensor) -> bool:
    """Whether :func:`by_rows` pays: on a CPU, which has a cache, where no gradient wants all that is in between."""
    return x.device.type == 'cpu' and not torch.is_grad_enabled() and not is_tracing()


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)`` for a function of each row alone.

    A chain of layers on a large feature map writes each layer's result to memory and reads it back. Applied to a
    thousand rows at a time, all results but the last stay in the cache.

    Args:
        function: of tensors (n, ...) for any n, one for each of ``inputs``, with a result (n, C).
        inputs: (L, ...) each, L at least 1.

    Returns:
        (L, C).
    """
    out = None
    for some in blocks(inputs[0].shape[0]):
        rows = function(*(each[some] for each in inputs))
        if out is None:
            out = rows.new_empty(inputs[0].shape[0], rows.shape[1])
        out[some] = rows
    return out
