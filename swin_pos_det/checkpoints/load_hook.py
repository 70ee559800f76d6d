"""The hook that every load goes through, whoever calls it: it makes a foreign state dict fit the backbone."""
from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, Dict, Optional, Sequence, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from ..layers import resample_absolute, resample_table, table_size
from .microsoft import from_microsoft, is_microsoft

Pair = Tuple[int, int]

TABLE = 'relative_position_bias_table'
ABSOLUTE = 'absolute_pos_embed'
TABLE_WINDOWS = 'table_window_sizes'
OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')
# Derived from shapes and kept in other libraries' state dicts; here they are computed.
DERIVED = ('relative_position_index', 'relative_coords_table', 'attn_mask')


def note_table_windows(backbone: nn.Module, state_dict: Any, prefix: str, local_metadata: Dict[str, Any]) -> None:
    """A state dict hook: note, beside the weights, which window each stage's tables are for.

    A table's shape does not tell it: (7, 14) and (14, 7) have the same number of rows. Metadata is no key, so the
    state dict stays that of mmdet's model.
    """
    local_metadata[TABLE_WINDOWS] = [list(_table_window(stage)) for stage in backbone.stages]


def _table_window(stage: nn.Module) -> Pair:
    return stage.blocks[0].attn.w_msa.table_window_size


def adapt_state_dict(state_dict: Dict[str, Any], prefix: str, backbone: nn.Module,
                     local_metadata: Optional[Dict[str, Any]] = None) -> None:
    """Make the part of ``state_dict`` under ``prefix`` fit ``backbone``, in place.

    Renames the Swin authors' keys, drops derived buffers, and resamples tables and absolute embeddings that were
    learned on another grid. Called by ``backbone._load_from_state_dict``, so ``init_cfg``, ``load_from``, resuming and
    ``load_state_dict`` all pass here, strict or not.

    Args:
        state_dict: with tensors; keys under other prefixes are not touched.
        prefix: such as ``'backbone.'``, or ``''``.
        backbone: a ``SwinPosTransformer``.
        local_metadata: what :func:`note_table_windows` noted when the state dict was made. Without it, a table is
            taken to be for the model's own window if its shape is the same, else for a square one.

    Raises:
        ValueError: if a parameter would stay random, because nothing is there for it or what is there does not fit
            (both shapes are named). Norms of the outputs, which classifiers do not have, may be missing.
    """
    own = {key[len(prefix):]: state_dict.pop(key) for key in list(state_dict) if key.startswith(prefix)}
    given = sorted(own)[:3]
    if is_microsoft(own):
        own = from_microsoft(own)
    own = {key: value for key, value in own.items() if not key.endswith(DERIVED)}
    _check_complete(own, backbone, prefix, given)
    windows = (local_metadata or {}).get(TABLE_WINDOWS)
    changes: Counter = Counter()
    for name, parameter in backbone.named_parameters():
        if name not in own:
            continue
        value, change = own[name], None
        if name.endswith(TABLE):
            stage = int(name.split('.')[1])
            target = _table_window(backbone.stages[stage])
            own[name], change = _fitted_table(name, value, parameter, windows and tuple(windows[stage]), target)
        elif name == ABSOLUTE and value.shape != parameter.shape:
            own[name], change = _resampled_absolute(value, parameter, backbone.absolute_grid)
        elif value.shape != parameter.shape:
            raise ValueError(f'{prefix}{name}: the checkpoint has shape {tuple(value.shape)}, the model '
                             f'{tuple(parameter.shape)}')
        changes.update([change] * (change is not None))
    for change, count in changes.items():
        print_log(f'{type(backbone).__name__}: resampled {count} {change}', logger='current')
    state_dict.update((prefix + key, value) for key, value in own.items())


def _check_complete(own: Dict[str, Any], backbone: nn.Module, prefix: str, given: Sequence[str]) -> None:
    names = [name for name, _ in backbone.named_parameters()]
    random = [name for name in names if name not in own and not OUTPUT_NORM.fullmatch(name)]
    if random:
        raise ValueError(
            f'the checkpoint has no weights for {len(random)} of the {len(names)} parameters of '
            f'{type(backbone).__name__}, such as {prefix}{random[0]}: they would stay random. '
            + (f'Under {prefix!r} it has, for instance, {given}' if given else
               f'It has nothing under {prefix!r}; weights of a backbone alone load through '
               "backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"))


def _fitted_table(name: str, value: Tensor, parameter: Tensor, source: Optional[Pair],
                  target: Pair) -> Tuple[Tensor, Optional[str]]:
    """The table for the model's window, and what was done to it, if anything."""
    if source is not None and value.shape[0] != math.prod(table_size(source)):
        source = None  # somebody has resized the table since that was noted
    if source is None and value.shape == parameter.shape:
        source = target
    if source is None and value.dim() == 2:
        side = _square_root(value.shape[0])
        source = ((side + 1) // 2, (side + 1) // 2) if side % 2 else None
    if source is None or value.dim() != 2 or value.shape[1] != parameter.shape[1]:
        raise ValueError(
            f'{name}: the checkpoint has shape {tuple(value.shape)}, the model {tuple(parameter.shape)} for window '
            f'{target}; a table can be resampled if it has as many heads and is of a square window')
    if source == target:
        return value, None
    grids = ['x'.join(map(str, table_size(window))) for window in (source, target)]
    change = f'relative position bias tables from {grids[0]} to {grids[1]} (window {source} to {target})'
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
