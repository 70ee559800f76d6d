"""torchvision's names (https://github.com/pytorch/vision): patch embedding, stages and merging in a row."""
from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
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


def to_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Rename: ``features.1`` is the first stage, ``features.2`` the patch merging behind it, and so on.

    The bias of queries, keys and values is one in Swin V2 too. The keys' part is set to zero whenever it is used, so it
    is left out.
    """
    converted = {}
    for key, value in state_dict.items():
        if _NOT_OF_THE_BACKBONE.match(key):
            continue
        if _MERGING.match(key) and (version == 1 or '.reduction.' in key):
            value = interleave(value)
        if version == 2 and key.endswith('.attn.qkv.bias'):
            queries, _, values = value.chunk(3)
            converted[_renamed(key).replace('.qkv.bias', '.q_bias')] = queries
            converted[_renamed(key).replace('.qkv.bias', '.v_bias')] = values
        else:
            converted[_renamed(key)] = value
    return converted


def _renamed(key: str) -> str:
    key = rename(key, _RULES)
    key = _MERGING.sub(lambda match: f'stages.{int(match[1]) // 2 - 1}.downsample.', key)
    return _BLOCK.sub(lambda match: f'stages.{int(match[1]) // 2}.blocks.{match[2]}.', key)


TORCHVISION = Format(
    name='torchvision',
    title="torchvision's",
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    beyond=_NOT_OF_THE_BACKBONE)

TORCHVISION_V2 = replace(
    TORCHVISION,
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.logit_scale'),
    to_mmdet=partial(to_mmdet, version=2),
    version=2,
    position='log_cpb')
