"""torchvision's names (https://github.com/pytorch/vision): patch embedding, stages and merging in a row."""
from __future__ import annotations

import re
from typing import Dict

from torch import Tensor

from .base import Format, StateDict, interleave, rename

_RULES = (
    (r'^features\.0\.0\.', 'patch_embed.projection.'),
    (r'^features\.0\.2\.', 'patch_embed.norm.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.0\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.3\.', '.ffn.layers.1.'),
)
_MERGING = re.compile(r'^features\.(\d+)\.(?=reduction\.|norm\.)')
_BLOCK = re.compile(r'^features\.(\d+)\.(\d+)\.')
_NOT_OF_THE_BACKBONE = re.compile(r'(?!features\.)')  # the classifier and the norm before it


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Rename: ``features.1`` is the first stage, ``features.2`` the patch merging behind it, and so on."""
    converted = {}
    for key, value in state_dict.items():
        if _NOT_OF_THE_BACKBONE.match(key):
            continue
        if _MERGING.match(key):
            value = interleave(value)
        key = rename(key, _RULES)
        key = _MERGING.sub(lambda match: f'stages.{int(match[1]) // 2 - 1}.downsample.', key)
        key = _BLOCK.sub(lambda match: f'stages.{int(match[1]) // 2}.blocks.{match[2]}.', key)
        converted[key] = value
    return converted


TORCHVISION = Format(
    name='torchvision',
    title="torchvision's",
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    beyond=_NOT_OF_THE_BACKBONE)
