"""Finding the weights of a Swin backbone in the content of a checkpoint file."""
from __future__ import annotations

import math
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from mmengine.logging import print_log
from torch import Tensor

from ..errors import SettingError
from ..layers import table_size
from ..ops.windows import Pair
from .formats import (
    COORDINATES,
    DERIVED,
    INDEX,
    TABLE,
    Format,
    candidates,
    detect_format,
    is_swinv2_cr,
    learned_side,
)

# More than any Swin has; a file that claims more is damaged.
MAX_STAGES, MAX_BLOCKS, MAX_SIDE = 16, 1000, 10000
MAX_DEPTH = 4  # of nested dicts that may hold the weights

# Averaged weights, which are preferred, by their names in training checkpoints of other libraries. MMEngine needs
# none: its EMAHook saves the averaged weights as the state dict.
AVERAGED = ('state_dict_ema', 'model_ema', 'ema_model', 'ema', 'teacher')
CONTAINERS = AVERAGED + ('state_dict', 'model', 'module')

# In a state dict's metadata: the windows that the stages' position parameters were learned for, the grid of the
# absolute position embedding, and the name of the position scheme.
TABLE_WINDOWS = 'table_window_sizes'
ABSOLUTE_GRID = 'absolute_grid'
POSITION = 'position'


@dataclass(frozen=True)
class SwinWeights:
    """The weights of a backbone, in mmdet's names.

    Attributes:
        format: the original format.
        prefix: of the original keys, such as ``'module.backbone.'``.
        container: the entry of the checkpoint that held them, or ``''``.
        state_dict: parameters alone; derived buffers are dropped.
        windows: of each stage's tables or position networks, if noted with the weights or shown by their
            buffers.
        grid: of the absolute position embedding, if noted.
        position: the name of the position scheme, if noted.
        unused: other keys than the backbone's, unchanged.
        others: prefixes of other Swin backbones in the file, which were ignored.
    """

    format: Format
    prefix: str
    container: str
    state_dict: Dict[str, Tensor]
    windows: Optional[Sequence[Optional[Sequence[int]]]] = None
    grid: Optional[Sequence[int]] = None
    unused: List[str] = field(default_factory=list)
    others: List[str] = field(default_factory=list)
    position: Optional[str] = None

    @property
    def foreign(self) -> bool:
        """Return whether the keys had to be changed."""
        return not self.format.native or self.prefix != '' or self.container != ''

    @property
    def where(self) -> str:
        """Return the entry they were found in, for messages; '' for ``'state_dict'``, the usual one."""
        parts = [f'in {self.container!r}'] * (self.container not in ('', 'state_dict'))
        parts += [f'under {self.prefix!r}'] * bool(self.prefix)
        parts += [f'not those under {", ".join(map(repr, self.others))}'] * bool(self.others)
        return ', '.join([f'{self.format.title} names', *parts])


def unwrap(checkpoint: Mapping[Any, Any]) -> Tuple[str, Mapping[Any, Any]]:
    """Find the entry of a checkpoint that holds its weights.

    Returns:
        The entry's name (``'ema.module'`` for one within one) and the entry; ``''`` and the checkpoint itself if it
        is a state dict or holds none.
    """
    found = _unwrap(checkpoint, MAX_DEPTH, set())
    if found is not None:
        return found
    # No Swin: the usual entry, so that a message can name its content.
    return next(((name, checkpoint[name]) for name in CONTAINERS if isinstance(checkpoint.get(name), Mapping)),
                ('', checkpoint))


def _unwrap(content: Mapping[Any, Any], depth: int, seen: Set[int]) -> Optional[Tuple[str, Mapping[Any, Any]]]:
    """Return the entry with a Swin; visit each dict once, as a small file can share and nest them without end."""
    seen.add(id(content))
    if detect_format(content) is not None:
        return '', content
    inner = {name: value for name, value in content.items()
             if depth and isinstance(name, str) and isinstance(value, Mapping)}
    for name in sorted(inner, key=lambda name: CONTAINERS.index(name) if name in CONTAINERS else len(CONTAINERS)):
        found = _unwrap(inner[name], depth - 1, seen) if id(inner[name]) not in seen else None
        if found is not None:
            return '.'.join([name] + [found[0]] * bool(found[0])), found[1]
    return None


def check_metadata(state_dict: Mapping[Any, Any]) -> None:
    """Check that a state dict's metadata, if it has any, has the layout that PyTorch and this project write.

    Raises:
        ValueError: naming the malformed entry, on which PyTorch itself would fail.
    """
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is None:
        return
    if not isinstance(metadata, Mapping) or not all(isinstance(noted, Mapping) for noted in metadata.values()):
        raise SettingError('its _metadata is no dict of dicts')
    for noted in metadata.values():
        if not isinstance(noted.get('version'), (int, type(None))):
            raise SettingError(f'its _metadata has the version {noted["version"]!r:.60}')
        check_notes(noted)


def check_notes(noted: Mapping[str, Any]) -> None:
    """Check that the notes with a backbone's weights are windows, a grid and a name.

    Raises:
        ValueError: naming the malformed entry.
    """
    def is_pair(value: Any) -> bool:
        return (isinstance(value, (list, tuple)) and len(value) == 2
                and all(type(side) is int and 0 < side <= MAX_SIDE for side in value))

    windows, grid, position = (noted.get(name) for name in (TABLE_WINDOWS, ABSOLUTE_GRID, POSITION))
    wrong = {
        TABLE_WINDOWS: windows is not None and not (
            isinstance(windows, (list, tuple)) and len(windows) <= MAX_STAGES
            and all(window is None or is_pair(window) for window in windows)),
        ABSOLUTE_GRID: grid is not None and not is_pair(grid),
        POSITION: not isinstance(position, (str, type(None))),
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise SettingError(f'its note {name!r} is {noted[name]!r:.60}')


def read_weights(checkpoint: Mapping[Any, Any], noted: Optional[Mapping[str, Any]] = None,
                 metadata: Optional[Mapping[str, Any]] = None) -> SwinWeights:
    """Find a Swin backbone in a checkpoint, a state dict, or a part of one.

    Args:
        checkpoint: of a backbone, a classifier or a detector, by any of the libraries in :mod:`.formats`.
        noted: known facts about the backbone, by the names in this module. Default: those in its metadata.
        metadata: of the state dict. Default: that of ``checkpoint``.

    Raises:
        ValueError: if there is none, or it has another layout than its format.
    """
    container, state_dict = unwrap(checkpoint)
    found = candidates(state_dict)
    if not found:
        keys = sorted(map(str, state_dict))
        if is_swinv2_cr(keys):
            raise SettingError("these are weights of timm's swinv2_cr, which is another model than the authors' Swin "
                               "V2 (timm's swinv2_* without _cr)")
        raise SettingError(f'no Swin backbone is among the {len(keys)} keys, which are, for instance, {keys[:3]}')
    (layout, prefix), others = found[0], [other for _, other in found[1:]]
    own, unused = split_state_dict(state_dict, layout, prefix)
    try:
        converted = layout.to_mmdet(own)
    except (RuntimeError, IndexError, ValueError) as error:
        raise SettingError(f'the weights have {layout.title} names, but not the layout: {error}'[:300]) from error
    _check_numbers(converted)
    unused = [prefix + key for key in own if layout.beyond.match(key)] + unused
    windows = _windows_of_coordinates(converted) if layout.version == 2 else _windows_of_indices(converted)
    if not (noted or {}).get(TABLE_WINDOWS):
        check_metadata(state_dict)
        metadata = getattr(state_dict, '_metadata', None) if metadata is None or container else metadata
        noted = (metadata or {}).get(prefix[:-1], {})
    check_notes(noted)
    kept = {key: value for key, value in converted.items() if not key.endswith(DERIVED)}
    return SwinWeights(layout, prefix, container, kept, noted.get(TABLE_WINDOWS) or windows, noted.get(ABSOLUTE_GRID),
                       unused, others, noted.get(POSITION) or layout.position)


def _check_numbers(state_dict: Mapping[str, Tensor]) -> None:
    """Check that the numbers of stages and blocks are plausible: work grows with the largest."""
    for key in state_dict:
        number = re.match(r'stages\.([^.]*)(?:\.blocks\.([^.]*))?', key)
        for text, most in zip(number.groups() if number else (), (MAX_STAGES, MAX_BLOCKS)):
            if text is not None and not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) < most):
                raise SettingError(f'{key!r:.100}: {text!r:.20} is no number of a stage or block')


def split_state_dict(state_dict: Mapping[Any, Any], layout: Format, prefix: str) -> Tuple[Dict[str, Tensor], List[str]]:
    """Return the backbone's tensors, without their prefix, and the other keys.

    Raises:
        ValueError: if an entry with the name of a weight is not a tensor.
    """
    own: Dict[str, Tensor] = {}
    unused = []
    beside: Dict[str, str] = {}  # of several, the one that shares most of the prefix
    for key, value in state_dict.items():
        if not isinstance(key, str):
            continue
        if not isinstance(value, Tensor):
            if key.startswith(prefix) and layout.named.match(key[len(prefix):]):
                raise SettingError(f'{key}: the checkpoint has a {type(value).__name__}, not a tensor')
            continue
        before = key[:key.index(layout.beside)] if layout.beside and layout.beside in key else None
        if key.startswith(prefix):
            own[key[len(prefix):]] = value
        elif before is not None and prefix.startswith(before):
            name = key[len(before):]
            if len(key) > len(beside.get(name, '')):
                beside[name] = key
        else:
            unused.append(key)
    own.update((name, state_dict[key]) for name, key in beside.items() if name not in own)
    return own, unused


def _windows_of_indices(state_dict: Mapping[str, Tensor]) -> Optional[List[Optional[Pair]]]:
    """Return the window of each stage's tables according to its index buffers; None without such buffers."""
    windows: Dict[int, Optional[Pair]] = {}
    for key, index in state_dict.items():
        parts = key.split('.')
        if key.endswith(f'.blocks.0.attn.w_msa.{INDEX}') and parts[0] == 'stages' and parts[1].isdigit():
            table = state_dict.get(key[:-len(INDEX)] + TABLE)
            window = _window_of_index(index)
            fits = table is not None and window is not None and math.prod(table_size(window)) == table.shape[0]
            windows[int(parts[1])] = window if fits else None
    return [windows.get(stage) for stage in range(max(windows) + 1)] if windows else None


def _windows_of_coordinates(state_dict: Mapping[str, Tensor]) -> Optional[List[Optional[Pair]]]:
    """Return the window of each stage of a Swin V2 according to its coordinates; None without these."""
    windows: Dict[int, Optional[Pair]] = {}
    for key, table in state_dict.items():
        parts = key.split('.')
        if key.endswith(f'.blocks.0.attn.w_msa.{COORDINATES}') and parts[1].isdigit() and table.dim() == 4:
            sides = learned_side(table[0, :, 0, 0]), learned_side(table[0, 0, :, 1])
            windows[int(parts[1])] = None if None in sides else sides
    return [windows.get(stage) for stage in range(max(windows) + 1)] if windows else None


def _window_of_index(index: Tensor) -> Optional[Pair]:
    """Return the window (h, w) of a ``relative_position_index``, or None: row offsets are ``2 w - 1`` entries apart."""
    tokens = math.isqrt(index.numel())
    first = index.flatten()[:tokens].tolist()  # from the top left token to each
    for width in range(1, tokens + 1):
        if tokens % width == 0 and all(first[0] - row == token // width * (2 * width - 1) + token % width
                                       for token, row in enumerate(first)):
            return tokens // width, width
    return None


def with_state_dict(checkpoint: Dict[Any, Any]) -> Dict[Any, Any]:
    """Convert a file with a Swin backbone to MMEngine's layout: with its weights in ``'state_dict'``.

    Without that entry MMEngine takes the whole file for the weights, and its ``EMAHook`` fails. The entry is the one
    that :func:`unwrap` finds, so ``load_from`` takes averaged weights where ``init_cfg`` does. MMEngine's own training
    checkpoints, which a training may resume from, stay as they are: there the averaged weights are in that entry.

    Args:
        checkpoint: as read.

    Returns:
        The checkpoint if nothing needs to be done, or if no Swin is in it. Else a new dict; tensors are shared.
    """
    container, found = unwrap(checkpoint)
    if any(not isinstance(key, str) for key in found) and detect_format(found) is not None:
        named = OrderedDict((key, value) for key, value in found.items() if isinstance(key, str))
        named._metadata = getattr(found, '_metadata', None)
        if container in ('', 'state_dict'):  # MMEngine fails on keys that are not text
            return OrderedDict(checkpoint if container else {}, state_dict=named)
        found = named
    if container == 'state_dict' or 'message_hub' in checkpoint or detect_format(found) is None:
        return checkpoint
    if container == '':
        return OrderedDict(state_dict=checkpoint)
    print_log(f'the weights are taken from {container!r}, one of {sorted(map(str, checkpoint))}', logger='current')
    return OrderedDict(checkpoint, state_dict=found)
