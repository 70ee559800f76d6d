"""The definition of a format, and the steps that formats share."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, Optional, Pattern, Sequence, Tuple

import torch
from torch import Tensor

from ...layers import POSITIONS, relative_position_index
from ...ops.windows import Pair

StateDict = Mapping[str, Tensor]
Rules = Sequence[Tuple[str, str]]

TABLE = 'relative_position_bias_table'
INDEX = 'relative_position_index'
COORDINATES = 'relative_coords_table'
LOGIT_SCALE = 'logit_scale'
# Computed from shapes; kept in the state dicts of other libraries.
DERIVED = (INDEX, COORDINATES, 'attn_mask')


@dataclass(frozen=True)
class Format:
    """How one library names and lays out the weights of a Swin backbone.

    Attributes:
        name: short, for messages and command lines.
        title: whose it is.
        signature: a pattern that one key of every such file matches; group 1 is what comes before the backbone's keys.
        to_mmdet: dict -> dict: keys without that prefix in, mmdet's names and layout out. Tensors that need no
            change are shared. Keys that do not belong to a backbone are left out.
        from_mmdet: dict, windows of the stages' tables -> dict: the reverse, with everything that the library's own
            backbone has in its state dict. None if it is not needed.
        excluded: a pattern that no key of such a file matches, for formats with the same signature.
        beside: the start of keys that belong to the backbone but may be outside its prefix.
        beyond: a pattern of the keys under the prefix that are not part of a backbone, such as a classifier's.
        version: of Swin, 1 or 2.
        position: the position scheme of every such file; None if there are several, or parameters show it.
        named: a pattern of the keys, without the prefix, that name weights; others may hold anything.
        native: whether the names are this project's own.
    """

    name: str
    title: str
    signature: Pattern
    to_mmdet: Callable[[StateDict], Dict[str, Tensor]]
    from_mmdet: Optional[Callable[[StateDict, Sequence[Pair]], Dict[str, Tensor]]] = None
    excluded: Pattern = field(default=re.compile(r'(?!)'))
    beside: Optional[str] = None
    beyond: Pattern = field(default=re.compile(r'(?!)'))
    version: int = 1
    position: Optional[str] = None
    named: Pattern = field(default=re.compile(r'.*\.(weight|bias|\w*table)$'))
    native: bool = False


def rename(key: str, rules: Rules) -> str:
    """Apply each (pattern, replacement) in turn."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def interleave(value: Tensor) -> Tensor:
    """Reorder the input channels of patch merging: (..., 4 C) in the concatenated order -> mmdet's.

    The Swin authors, timm, Hugging Face and torchvision concatenate the tokens (0, 0), (1, 0), (0, 1), (1, 1) (row,
    column), each with all its channels. mmdet's Unfold has for each channel the tokens (0, 0), (0, 1), (1, 0), (1, 1).
    """
    tokens = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return tokens.transpose(-1, -2).flatten(-2)


def deinterleave(value: Tensor) -> Tensor:
    """Undo :func:`interleave`."""
    tokens = value.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return tokens[..., [0, 2, 1, 3], :].flatten(-2)


def is_merged(key: str, version: int) -> bool:
    """Return whether a key's last axis is the 4 C channels of patch merging: the reduction's and, in Swin, the norm's.

    In Swin V2 the norm comes after the reduction, which leaves 2 C channels, and has no order of tokens.
    """
    return '.downsample.' in key and (version == 1 or '.reduction.' in key)


def with_indices(state_dict: Dict[str, Tensor], windows: Sequence[Pair], shape: str = 'square') -> Dict[str, Tensor]:
    """Add, beside each table, the index buffer that other libraries keep in their state dicts.

    Args:
        state_dict: with keys that end in :data:`TABLE`, and the stage as their first number.
        windows: the window of each stage's tables.
        shape: 'square' for (N, N), 'flat' for (N * N,).
    """
    full = {}
    for key, value in state_dict.items():
        full[key] = value
        if key.endswith(TABLE):
            full[key[:-len(TABLE)] + INDEX] = _index(windows[int(re.search(r'\d+', key)[0])], shape)
    return full


def _index(window: Pair, shape: str) -> Tensor:
    index = relative_position_index(window).clone()
    return index if shape == 'square' else index.flatten()


def with_coordinates(state_dict: Dict[str, Tensor], windows: Sequence[Pair], learned: Sequence[Pair],
                     shape: str = 'square') -> Dict[str, Tensor]:
    """Add, beside each position network of a Swin V2, the two buffers that its authors keep in their state dicts.

    Args:
        state_dict: with keys that end in ``logit_scale``, and the stage as their first number.
        windows: of each stage.
        learned: the window by which each stage measures offsets.
        shape: of the index, see :func:`with_indices`.
    """
    full = {}
    for key, value in state_dict.items():
        full[key] = value
        if key.endswith(LOGIT_SCALE):
            stage = int(re.search(r'\d+', key)[0])
            axes = [log_coordinates(side, by) for side, by in zip(windows[stage], learned[stage])]
            full[key[:-len(LOGIT_SCALE)] + COORDINATES] = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)[None]
            full[key[:-len(LOGIT_SCALE)] + INDEX] = _index(windows[stage], shape)
    return full


def log_coordinates(side: int, learned: int) -> Tensor:
    """Return (2 side - 1,) offsets along an axis as Swin V2's position network sees them (section 3.3, equation 4)."""
    return POSITIONS['log_cpb']().coordinates(side, learned, torch.empty(0))


def learned_side(coordinates: Tensor) -> Optional[int]:
    """Return the ``learned`` that :func:`log_coordinates` was called with, from its result; None for a side of 1."""
    side = (coordinates.numel() + 1) // 2
    largest = (2**(3 * coordinates.abs().max().item()) - 1) / 8  # = (side - 1) / (learned - 1)
    return round(1 + (side - 1) / largest) if side > 1 and largest > 0 else None
