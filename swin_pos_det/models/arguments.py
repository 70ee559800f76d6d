"""Checks of the backbone's arguments: a mistake is named, with its value and what would be right."""
from __future__ import annotations

from typing import Any, List, Sequence, Tuple, Union

Pair = Tuple[int, int]
WindowSize = Union[int, Pair, Sequence[Union[int, Pair]]]


def windows_per_stage(name: str, value: WindowSize, num_stages: int) -> List[Pair]:
    """Read a window setting.

    Args:
        name: the argument's name, for messages.
        value: an int (square, every stage), a tuple (h, w) (every stage), or a list with an int or (h, w) per stage.
        num_stages: how many stages there are.

    Returns:
        (h, w) in tokens for each stage.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a side is below 1, or the list's length is not ``num_stages``.
    """
    if isinstance(value, list):
        if len(value) != num_stages:
            raise ValueError(f'{name} as a list needs one entry for each of the {num_stages} stages, got {value!r} '
                             f'with {len(value)}; write a tuple (h, w) for a rectangular window')
        return [size_pair(name, entry) for entry in value]
    return [size_pair(name, value)] * num_stages


def size_pair(name: str, value: Any) -> Pair:
    """An int or a pair of ints, all at least 1, as a pair (h, w).

    Raises:
        TypeError: if it is neither.
        ValueError: if a side is below 1.
    """
    sides = (value, value) if is_int(value) else value
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(is_int(side) for side in sides):
        raise TypeError(f'{name} takes an int or a pair (h, w) of ints, got {value!r}')
    if min(sides) < 1:
        raise ValueError(f'{name} must be at least 1 on each side, got {value!r}')
    return int(sides[0]), int(sides[1])


def is_int(value: Any) -> bool:
    """True for ints, not for bools."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_rate(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to below 1."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a number from 0 to below 1, got {value!r}')


def check_layout(embed_dims: int, depths: Sequence[int], num_heads: Sequence[int], strides: Sequence[Any],
                 out_indices: Sequence[int], frozen_stages: int) -> None:
    """Check that the stages fit together.

    Raises:
        ValueError: naming the first setting that does not.
    """
    num_stages = len(depths)
    if num_stages < 1 or not all(is_int(depth) and depth >= 1 for depth in depths):
        raise ValueError(f'depths must hold at least one stage of at least one block each, got {depths!r}')
    for name, value in (('num_heads', num_heads), ('strides', strides)):
        if len(value) != num_stages:
            raise ValueError(f'{name} must have one entry for each of the {num_stages} stages of depths={depths!r}, '
                             f'got {value!r}')
    for stage, heads in enumerate(num_heads):
        dims = embed_dims * 2**stage
        if not is_int(heads) or heads < 1 or dims % heads:
            raise ValueError(f'num_heads[{stage}] must divide the {dims} channels of stage {stage}, got {heads!r}')
    indices = list(out_indices)
    if not indices or len(set(indices)) != len(indices) or not all(i in range(num_stages) for i in indices):
        raise ValueError(f'out_indices must be different stages from 0 to {num_stages - 1}, got {out_indices!r}')
    if not is_int(frozen_stages) or not -1 <= frozen_stages <= num_stages:
        raise ValueError(f'frozen_stages must be from -1 (nothing) to {num_stages}, got {frozen_stages!r}')
