"""Checks of the backbone's arguments. An error names the value and what would be right."""
from __future__ import annotations

import warnings
from typing import Any, List, Optional, Sequence, Union

from ..errors import SettingError, SettingTypeError
from ..layers import GLOBAL, WINDOW_POLICIES, PositionScheme, WindowRule, build_position
from ..ops.windows import Pair

WindowSize = Union[int, str, Pair, Sequence[Union[int, str, Pair]]]

PADDINGS = ('attend', 'mask')


def window_rules(window_size: WindowSize, policy: str, num_stages: int,
                 reference_size: Optional[Pair] = None) -> List[WindowRule]:
    """Read ``window_size`` and ``window_policy``: the rule of each stage.

    Raises:
        SettingError, SettingTypeError: see :func:`windows_per_stage`, or for an unknown policy, or 'scale' without a
            ``reference_size``. One without effect warns.
    """
    if policy not in WINDOW_POLICIES:
        raise SettingError(f'window_policy must be one of {WINDOW_POLICIES}, got {policy!r}')
    if policy == 'scale' and reference_size is None:
        raise SettingError("window_policy='scale' needs reference_size, the image size in pixels at which windows have "
                           'their nominal size, such as (800, 1333)')
    if policy != 'scale' and reference_size is not None:
        warnings.warn(f'reference_size={reference_size} has no effect with window_policy={policy!r}', stacklevel=3)
    return [WindowRule(size, policy) for size in windows_per_stage('window_size', window_size, num_stages, GLOBAL)]


def table_windows(table_window_size: Optional[WindowSize], rules: Sequence[WindowRule],
                  pretrained_window_sizes: Optional[WindowSize] = None,
                  position: Optional[PositionScheme] = None) -> List[Optional[Pair]]:
    """Read ``table_window_size``: the window that each stage's position parameters are for; by default its rule's.

    Args:
        table_window_size: the setting.
        rules: of each stage.
        pretrained_window_sizes: the same setting by Swin V2's name, where 0 stands for the default.
        position: the scheme that asks. Default: 'relative'.

    Returns:
        (h, w) for each stage; None for a stage with a global window whose scheme needs none.

    Raises:
        TypeError, ValueError: see :func:`windows_per_stage`, both settings at once, or a global window without a
            table's window.
    """
    position = build_position('relative') if position is None else position
    if table_window_size is not None and pretrained_window_sizes is not None:
        raise SettingError('table_window_size and pretrained_window_sizes are two names of one setting: set one, got '
                           f'{table_window_size!r} and {pretrained_window_sizes!r}')
    given: List[Any] = [None] * len(rules)
    if table_window_size is not None:
        given = windows_per_stage('table_window_size', table_window_size, len(rules))
    elif pretrained_window_sizes is not None:
        given = _pretrained_windows(pretrained_window_sizes, len(rules))
    found = []
    for stage, (size, rule) in enumerate(zip(given, rules)):
        if size is None and rule.size == GLOBAL and 'table_window_size' in position.uses:
            raise SettingError(f"stage {stage} has window_size='global', which has no grid of its own: say which "
                               'window its table holds, such as table_window_size=7')
        found.append(size if size is not None else None if rule.size == GLOBAL else rule.size)
    return found


def _pretrained_windows(value: WindowSize, num_stages: int) -> List[Optional[Pair]]:
    name = 'pretrained_window_sizes'
    entries = value if isinstance(value, list) else [value] * num_stages
    if len(entries) != num_stages:
        return windows_per_stage(name, value, num_stages)  # which says what is wrong
    return [None if is_int(entry) and entry == 0 or tuple(entry if isinstance(entry, (tuple, list)) else ()) == (0, 0)
            else size_pair(name, entry) for entry in entries]


def warn_without_effect(position: PositionScheme, **settings: Any) -> None:
    """Warn of settings that the position scheme does not use.

    Args:
        position: the scheme.
        **settings: as given to the backbone: ``table_window_size``, ``pretrained_window_sizes``, ``resampling``,
            ``qk_scale``.
    """
    uses = (*position.uses, *['pretrained_window_sizes'] * ('table_window_size' in position.uses),
            *['qk_scale'] * position.appearance)
    for name, value in settings.items():
        if value is not None and (name, value) != ('resampling', 'bicubic') and name not in uses:
            warnings.warn(f'{name}={value!r} has no effect with position={position.name!r}', stacklevel=4)


def windows_per_stage(name: str, value: WindowSize, num_stages: int, also: Optional[str] = None) -> List[Any]:
    """Read a window setting.

    Args:
        name: the argument's name, for messages.
        value: an int (square, every stage), a tuple (h, w) (every stage), or a list with an int or (h, w) per stage.
        num_stages: how many stages there are.
        also: a word that is allowed in place of a size.

    Returns:
        (h, w) in tokens, or the word, for each stage.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a side is below 1, or the list's length is not ``num_stages``.
    """
    if isinstance(value, list):
        if len(value) != num_stages:
            raise SettingError(f'{name} as a list needs one entry for each of the {num_stages} stages, got {value!r} '
                               f'with {len(value)}; write a tuple (h, w) for a rectangular window')
        return [size_pair(name, entry, also) for entry in value]
    return [size_pair(name, value, also)] * num_stages


def size_pair(name: str, value: Any, also: Optional[str] = None) -> Any:
    """Return an int or a pair of ints, all at least 1, as a pair (h, w); the word ``also`` stays as it is.

    Raises:
        TypeError: if it is none of these.
        ValueError: if a side is below 1.
    """
    if also is not None and value == also:
        return value
    sides = (value, value) if is_int(value) else value
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(is_int(side) for side in sides):
        word = f', or {also!r}' if also else ''
        raise SettingTypeError(f'{name} takes an int or a pair (h, w) of ints{word}, got {value!r}')
    if min(sides) < 1:
        raise SettingError(f'{name} must be at least 1 on each side, got {value!r}')
    return int(sides[0]), int(sides[1])


def image_size(value: Any) -> Pair:
    """Read ``pretrain_img_size`` as (h, w); as in mmdet, a list or tuple of one int is a square too.

    Raises:
        TypeError, ValueError: as :func:`size_pair`.
    """
    single = isinstance(value, (tuple, list)) and len(value) == 1
    return size_pair('pretrain_img_size', tuple(value) * 2 if single else value)


def is_int(value: Any) -> bool:
    """Return True for ints, not for bools."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_rates(**rates: Any) -> None:
    """Raise ValueError unless each is a number from 0 to below 1."""
    for name, value in rates.items():
        if not _is_number(value) or not 0 <= value < 1:
            raise SettingError(f'{name} must be a number from 0 to below 1, got {value!r}')


def check_positive(**numbers: Any) -> None:
    """Raise ValueError unless each is an int of at least 1; a ``*_ratio`` or ``*_scale`` may be any number above 0."""
    for name, value in numbers.items():
        fractional = name.endswith(('_ratio', '_scale'))
        if not (_is_number(value) if fractional else is_int(value)) or value <= 0:
            kind = 'a number above 0' if fractional else 'an int of at least 1'
            raise SettingError(f'{name} must be {kind}, got {value!r}')


def check_choices(**settings: Any) -> None:
    """Raise ValueError unless each value is one of its choices: ``name=(value, choices)``."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise SettingError(f'{name} must be one of {choices}, got {value!r}')


def check_layout(embed_dims: int, depths: Sequence[int], num_heads: Sequence[int], patch_size: Any,
                 strides: Sequence[Any], out_indices: Sequence[int], frozen_stages: int) -> None:
    """Check that the stages fit together.

    Raises:
        TypeError, ValueError: naming the first setting that does not.
    """
    per_stage = dict(depths=depths, num_heads=num_heads, strides=strides, out_indices=out_indices)
    for name, value in per_stage.items():
        if not isinstance(value, (list, tuple, range)):
            raise SettingTypeError(f'{name} takes a list or tuple, one entry per stage, got {value!r}')
    num_stages = len(depths)
    if num_stages < 1 or not all(is_int(depth) and depth >= 1 for depth in depths):
        raise SettingError(f'depths must hold at least one stage of at least one block each, got {depths!r}')
    for name in ('num_heads', 'strides'):
        if len(per_stage[name]) != num_stages:
            raise SettingError(f'{name} must have one entry for each of the {num_stages} stages of depths={depths!r}, '
                               f'got {per_stage[name]!r}')
    for stage, heads in enumerate(num_heads):
        dims = embed_dims * 2**stage
        if not is_int(heads) or heads < 1 or dims % heads:
            raise SettingError(f'num_heads[{stage}] must divide the {dims} channels of stage {stage}, got {heads!r}')
    sizes = [size_pair(f'strides[{i}]', stride) for i, stride in enumerate(strides)]
    if size_pair('patch_size', patch_size) != sizes[0]:
        raise SettingError(f'patches do not overlap in Swin: strides[0] must equal patch_size={patch_size!r}, '
                           f'got {strides[0]!r}')
    indices = list(out_indices)
    if not indices or len(set(indices)) != len(indices) or not all(i in range(num_stages) for i in indices):
        raise SettingError(f'out_indices must be different stages from 0 to {num_stages - 1}, got {out_indices!r}')
    if not is_int(frozen_stages) or not -1 <= frozen_stages <= num_stages:
        raise SettingError(f'frozen_stages must be from -1 (nothing) to {num_stages}, got {frozen_stages!r}')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
