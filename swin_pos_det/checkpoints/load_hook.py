"""The hook that every load goes through, whoever calls it: it makes a foreign state dict fit the backbone."""
from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers import resample_absolute, resample_table, table_size
from .microsoft import from_microsoft, is_microsoft

Pair = Tuple[int, int]

TABLE = 'relative_position_bias_table'
ABSOLUTE = 'absolute_pos_embed'
# Derived from shapes and kept in other libraries' state dicts; here they are computed.
DERIVED = ('relative_position_index', 'relative_coords_table', 'attn_mask')


def adapt_state_dict(state_dict: Dict[str, Any], prefix: str, backbone: nn.Module) -> None:
    """Make the part of ``state_dict`` under ``prefix`` fit ``backbone``, in place.

    Renames the Swin authors' keys, drops derived buffers, and resamples tables and absolute embeddings that were
    learned on another grid. Called by ``backbone._load_from_state_dict``, so ``init_cfg``, ``load_from``, resuming and
    ``load_state_dict`` all pass here.

    Args:
        state_dict: with tensors; keys under other prefixes are not touched.
        prefix: such as ``'backbone.'``, or ``''``.
        backbone: a ``SwinPosTransformer``.

    Raises:
        ValueError: if a table or an embedding cannot be resampled, naming both shapes.
    """
    own = {key[len(prefix):]: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
    if is_microsoft(own):
        own = from_microsoft(own)
    own = {key: value for key, value in own.items() if not key.endswith(DERIVED)}
    resampled: Dict[str, int] = {}
    for name, parameter in backbone.named_parameters():
        value = own.get(name)
        if value is None or value.shape == parameter.shape:
            continue
        if name.endswith(TABLE):
            target = backbone.get_submodule(name.rpartition('.')[0]).table_window_size
            own[name], change = _resampled_table(name, value, parameter, target)
        elif name == ABSOLUTE:
            own[name], change = _resampled_absolute(value, parameter, backbone.absolute_grid)
        else:
            continue
        resampled[change] = resampled.get(change, 0) + 1
    for change, count in resampled.items():
        print_log(f'{type(backbone).__name__}: resampled {count} {change}', logger='current')
    state_dict.update((prefix + key, value) for key, value in own.items())


def _resampled_table(name: str, value: Tensor, parameter: Tensor, target: Pair) -> Tuple[Tensor, str]:
    side = _square_root(value.shape[0])
    if value.dim() != 2 or value.shape[1] != parameter.shape[1] or not side or side % 2 == 0:
        raise ValueError(
            f'{name}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)} for window '
            f'{target}; a table can be resampled if it has as many heads and is of a square window')
    source = ((side + 1) // 2, (side + 1) // 2)
    rows, cols = table_size(target)
    change = f'relative position bias table(s) from {side} x {side} to {rows} x {cols} (window {source} to {target})'
    return resample_table(value, source, target), change


def _resampled_absolute(value: Tensor, parameter: Tensor, target: Pair) -> Tuple[Tensor, str]:
    if value.dim() == 4:  # (1, C, h, w): the Swin authors' detection code, mmdet before 2.17
        source: Optional[Pair] = (value.shape[2], value.shape[3])
        value = value.flatten(2).transpose(1, 2)
    else:
        side = _square_root(value.shape[1]) if value.dim() == 3 else 0
        source = (side, side) if side else None
    if source is None or value.shape[2] != parameter.shape[2]:
        raise ValueError(
            f'{ABSOLUTE}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)} for the '
            f'grid {target}; an embedding can be resampled if it has as many channels and is of a square grid')
    return resample_absolute(value, source, target), f'absolute position embedding from {source} to {target}'


def _square_root(number: int) -> int:
    """The integer square root, or 0 if ``number`` is no square."""
    root = math.isqrt(number)
    return root if root * root == number else 0
