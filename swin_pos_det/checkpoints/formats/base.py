"""What a format is, and the steps that formats share."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, Optional, Pattern, Sequence, Tuple

from torch import Tensor

from ...layers import relative_position_index

Pair = Tuple[int, int]
StateDict = Mapping[str, Tensor]
Rules = Sequence[Tuple[str, str]]

TABLE = 'relative_position_bias_table'
INDEX = 'relative_position_index'
# Computed from shapes; kept in the state dicts of other libraries.
DERIVED = (INDEX, 'relative_coords_table', 'attn_mask')


@dataclass(frozen=True)
class Format:
    """How one library names and lays out the weights of a Swin backbone.

    Attributes:
        name: short, for messages and command lines.
        title: whose it is.
        signature: a pattern that one key of every such file matches; group 1 is what comes before the backbone's keys.
        to_mmdet: dict -> dict: keys without that prefix in, mmdet's names and layout out. Tensors that need no
            change are shared. What does not belong to a backbone is left out.
        from_mmdet: dict, windows of the stages' tables -> dict: the reverse, with everything that the library's own
            backbone has in its state dict. None where nobody needs it.
        excluded: a pattern that no key of such a file matches, for formats with the same signature.
        beside: how keys start that are the backbone's too but may stand outside its prefix.
        beyond: a pattern of the keys under the prefix that are no part of a backbone, such as a classifier's.
    """

    name: str
    title: str
    signature: Pattern
    to_mmdet: Callable[[StateDict], Dict[str, Tensor]]
    from_mmdet: Optional[Callable[[StateDict, Sequence[Pair]], Dict[str, Tensor]]] = None
    excluded: Pattern = field(default=re.compile(r'(?!)'))
    beside: Optional[str] = None
    beyond: Pattern = field(default=re.compile(r'(?!)'))


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
    """The reverse of :func:`interleave`."""
    tokens = value.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return tokens[..., [0, 2, 1, 3], :].flatten(-2)


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
            index = relative_position_index(windows[int(re.search(r'\d+', key)[0])]).clone()
            full[key[:-len(TABLE)] + INDEX] = index if shape == 'square' else index.flatten()
    return full
