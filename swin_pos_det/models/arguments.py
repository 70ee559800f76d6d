"""Checks of the backbone's arguments: a mistake is named, with its value and what would be right."""
from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple, Union

from ..layers import GLOBAL, WINDOW_POLICIES, WindowRule

Pair = Tuple[int, int]
WindowSize = Union[int, str, Pair, Sequence[Union[int, str, Pair]]]

PADDINGS = ('attend', 'mask')


def window_rules(window_size: WindowSize, policy: str, num_stages: int) -> List[WindowRule]:
    """Read ``window_size`` and ``window_policy``: the rule of each stage.

    Raises:
        TypeError, ValueError: see :func:`windows_per_stage`, or an unknown policy.
    """
    if policy not in WINDOW_POLICIES:
        raise ValueError(f'window_policy must be one of {WINDOW_POLICIES}, got {policy!r}')
    return [WindowRule(size, policy) for size in windows_per_stage('window_size', window_size, num_stages, GLOBAL)]


def table_windows(table_window_size: Optional[WindowSize], rules: Sequence[WindowRule]) -> List[Pair]:
    """Read ``table_window_size``: the window that each stage's tables are for; by default that of its rule.

    Raises:
        TypeError, ValueError: see :func:`windows_per_stage`, or a global window without a table's window.
    """
    if table_window_size is not None:
        return windows_per_stage('table_window_size', table_window_size, len(rules))
    for stage, rule in enumerate(rules):
        if rule.size == GLOBAL:
            raise ValueError(f"stage {stage} has window_size='global', which has no grid of its own: say which window "
                             'its table holds, such as table_window_size=7')
    return [rule.size for rule in rules]


def windows_per_stage(name: str, value: WindowSize, num_stages: int, also: Optional[str] = None) -> List[Any]:
    """Read a window setting.

    Args:
        name: the argument's name, for messages.
        value: an int (square, every stage), a tuple (h, w) (every stage), or a list with an int or (h, w) per stage.
        num_stages: how many stages there are.
        also: a word that may stand in place of a size.

    Returns:
        (h, w) in tokens, or the word, for each stage.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a side is below 1, or the list's length is not ``num_stages``.
    """
    if isinstance(value, list):
        if len(value) != num_stages:
            raise ValueError(f'{name} as a list needs one entry for each of the {num_stages} stages, got {value!r} '
                             f'with {len(value)}; write a tuple (h, w) for a rectangular window')
        return [size_pair(name, entry, also) for entry in value]
    return [size_pair(name, value, also)] * num_stages


def size_pair(name: str, value: Any, also: Optional[str] = None) -> Any:
    """An int or a pair of ints, all at least 1, as a pair (h, w); or the word ``also`` as it is.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a side is below 1.
    """
    if also is not None and value == also:
        return value
    sides = (value, value) if is_int(value) else value
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(is_int(side) for side in sides):
        word = f', or {also!r}' if also else ''
        raise TypeError(f'{name} takes an int or a pair (h, w) of ints{word}, got {value!r}')
    if min(sides) < 1:
        raise ValueError(f'{name} must be at least 1 on each side, got {value!r}')
    return int(sides[0]), int(sides[1])


def is_int(value: Any) -> bool:
    """True for ints, not for bools."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_rates(**rates: Any) -> None:
    """Raise ValueError unless each is a number from 0 to below 1."""
    for name, value in rates.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise ValueError(f'{name} must be a number from 0 to below 1, got {value!r}')


def check_positive(**numbers: Any) -> None:
    """Raise ValueError unless each is an int of at least 1; a ``*_ratio`` or ``*_scale`` may be any number above 0."""
    for name, value in numbers.items():
        fractional = name.endswith(('_ratio', '_scale'))
        if not (_is_number(value) if fractional else is_int(value)) or value <= 0:
            kind = 'a number above 0' if fractional else 'an int of at least 1'
            raise ValueError(f'{name} must be {kind}, got {value!r}')


def check_choices(**settings: Any) -> None:
    """Raise ValueError unless each value is one of its choices: ``name=(value, choices)``."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise ValueError(f'{name} must be one of {choices}, got {value!r}')


def check_layout(embed_dims: int, depths: Sequence[int], num_heads: Sequence[int], patch_size: Any,
                 strides: Sequence[Any], out_indices: Sequence[int], frozen_stages: int) -> None:
    """Check that the stages fit together.

    Raises:
        TypeError, ValueError: naming the first setting that does not.
    """
    per_stage = dict(depths=depths, num_heads=num_heads, strides=strides, out_indices=out_indices)
    for name, value in per_stage.items():
        if not isinstance(value, (list, tuple, range)):
            raise TypeError(f'{name} takes a list or tuple, one entry per stage, got {value!r}')
    num_stages = len(depths)
    if num_stages < 1 or not all(is_int(depth) and depth >= 1 for depth in depths):
        raise ValueError(f'depths must hold at least one stage of at least one block each, got {depths!r}')
    for name in ('num_heads', 'strides'):
        if len(per_stage[name]) != num_stages:
            raise ValueError(f'{name} must have one entry for each of the {num_stages} stages of depths={depths!r}, '
                             f'got {per_stage[name]!r}')
    for stage, heads in enumerate(num_heads):
        dims = embed_dims * 2**stage
        if not is_int(heads) or heads < 1 or dims % heads:
            raise ValueError(f'num_heads[{stage}] must divide the {dims} channels of stage {stage}, got {heads!r}')
    sizes = [size_pair(f'strides[{i}]', stride) for i, stride in enumerate(strides)]
    if size_pair('patch_size', patch_size) != sizes[0]:
        raise ValueError(f'patches do not overlap in Swin: strides[0] must equal patch_size={patch_size!r}, '
                         f'got {strides[0]!r}')
    indices = list(out_indices)
    if not indices or len(set(indices)) != len(indices) or not all(i in range(num_stages) for i in indices):
        raise ValueError(f'out_indices must be different stages from 0 to {num_stages - 1}, got {out_indices!r}')
    if not is_int(frozen_stages) or not -1 <= frozen_stages <= num_stages:
        raise ValueError(f'frozen_stages must be from -1 (nothing) to {num_stages}, got {frozen_stages!r}')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
