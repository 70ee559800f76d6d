"""Checkpoints of the Swin authors' classification code: dict -> dict in mmdet's names."""
from __future__ import annotations

import re
from typing import Any, Dict, Mapping

from torch import Tensor

_RENAMES = (
    (r'^layers\.', 'stages.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'\.attn\.(?!w_msa\.)', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)

# Not of the backbone: the classifier and the norm before it; masks that depend on the image size.
_DROPPED = re.compile(r'^(head|norm)\.|\.attn_mask$')


def is_microsoft(state_dict: Mapping[str, Any]) -> bool:
    """Whether the keys are those of the Swin authors' ``SwinTransformer``."""
    return any(re.match(r'layers\.\d+\.blocks\.\d+\.attn\.qkv\.', key) for key in state_dict)


def from_microsoft(state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Rename the Swin authors' keys to mmdet's, and reorder the channels of patch merging.

    Their patch merging concatenates the tokens (0, 0), (1, 0), (0, 1), (1, 1) (row, column), each with all its
    channels; mmdet's Unfold has, for each channel, the tokens (0, 0), (0, 1), (1, 0), (1, 1).

    Args:
        state_dict: their state dict, without the ``{'model': ...}`` around it.

    Returns:
        A new dict; tensors that need no reordering are shared.
    """
    converted = {}
    for key, value in state_dict.items():
        if _DROPPED.search(key):
            continue
        if '.downsample.' in key:
            value = _interleave(value)
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[key] = value
    return converted


def _interleave(value: Tensor) -> Tensor:
    """(..., 4 C) token-major in their order -> (..., 4 C) channel-major in Unfold's."""
    tokens = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return tokens.transpose(-1, -2).flatten(-2)
