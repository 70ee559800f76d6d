"""Split tensors for elementwise functions on a CPU, whose last bit depends on the place of an element."""
from __future__ import annotations

from typing import List, Sequence

from torch import Tensor


def split_for_sigmoid(values: Tensor, sizes: List[int]) -> Sequence[Tensor]:
    """Split values into the parts by which another program computes their sigmoid, for the same last bit.

    On a CPU, torch computes the elements at the end of a tensor that fill no vector by another exp. Elsewhere the place
    of an element does not matter, and one part does.

    Args:
        values: (T,).
        sizes: of the parts; their sum is T.

    Returns:
        The parts, or ``values`` alone; their sigmoids and losses joined are (T,) either way.
    """
    return values.split(sizes) if values.device.type == 'cpu' else (values, )
