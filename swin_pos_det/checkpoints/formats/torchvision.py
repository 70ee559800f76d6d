"""torchvision's names (https://github.com/pytorch/vision): patch embedding, stages and merging in a row."""
from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Dict, Sequence

import torch
from torch import Tensor

from ...errors import SettingError
from ...ops.windows import Pair
from . import microsoft
from .base import (
    Format,
    StateDict,
    deinterleave,
    interleave,
    is_merged,
    rename,
    with_coordinates,
    with_indices,
)

_RULES = (
    (r'^features\.0\.0\.', 'patch_embed.projection.'),
    (r'^features\.0\.2\.', 'patch_embed.norm.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.0\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.3\.', '.ffn.layers.1.'),
)
_FROM_MMDET = (
    (r'^patch_embed\.projection\.', 'features.0.0.'),
    (r'^patch_embed\.norm\.', 'features.0.2.'),
    (r'\.attn\.w_msa\.', '.attn.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.0.'),
    (r'\.ffn\.layers\.1\.', '.mlp.3.'),
)
_MERGING = re.compile(r'^features\.(\d+)\.(?=reduction\.|norm\.)')
_BLOCK = re.compile(r'^features\.(\d+)\.(\d+)\.')
_NOT_OF_THE_BACKBONE = re.compile(r'(?!features\.|norm\d)')  # the classifier and the norm before it


def to_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Rename: ``features.1`` is the first stage, ``features.2`` the patch merging after it, and so on.

    The bias of queries, keys and values is one in Swin V2 too. The keys' part is set to zero whenever it is used, so it
    is left out.
    """
    converted = {}
    for key, value in state_dict.items():
        if _NOT_OF_THE_BACKBONE.match(key):
            continue
        key = rename(key, _RULES)
        key = _MERGING.sub(lambda match: f'stages.{int(match[1]) // 2 - 1}.downsample.', key)
        key = _BLOCK.sub(lambda match: f'stages.{int(match[1]) // 2}.blocks.{match[2]}.', key)
        if version == 2 and key.endswith('.qkv.bias'):
            queries, _, values = value.chunk(3)
            converted[key.replace('.qkv.bias', '.q_bias')] = queries
            converted[key.replace('.qkv.bias', '.v_bias')] = values
        else:
            converted[key] = interleave(value) if is_merged(key, version) else value
    return converted


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of torchvision's ``SwinTransformer`` without classifier, with the last output's norm.

    Raises:
        ValueError: for weights with an absolute position embedding, which torchvision's Swin does not have.
    """
    if 'absolute_pos_embed' in state_dict:
        raise SettingError("torchvision's Swin has no absolute position embedding, these weights have")
    own = with_indices(microsoft.without_output_norms(state_dict), windows, 'flat')
    return {**_renamed_from_mmdet(own, 1), **microsoft.final_norm(state_dict, len(windows) - 1)}


def from_v2(state_dict: StateDict, windows: Sequence[Pair], learned: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the same for torchvision's Swin V2, where the keys' part of the bias is zero."""
    own = {}
    for key, value in microsoft.without_output_norms(state_dict).items():
        if key.endswith('.q_bias'):
            values = state_dict[key.replace('.q_bias', '.v_bias')]
            own[key.replace('.q_bias', '.qkv.bias')] = torch.cat([value, torch.zeros_like(value), values])
        elif not key.endswith('.v_bias'):
            own[key] = value
    own = with_coordinates(own, windows, learned, 'flat')
    return {**_renamed_from_mmdet(own, 2), **microsoft.final_norm(state_dict, len(windows) - 1)}


def _renamed_from_mmdet(state_dict: StateDict, version: int) -> Dict[str, Tensor]:
    renamed = {}
    for key, value in state_dict.items():
        value = deinterleave(value) if is_merged(key, version) else value
        key = rename(key, _FROM_MMDET)
        key = re.sub(r'^stages\.(\d+)\.downsample\.', lambda match: f'features.{2 * int(match[1]) + 2}.', key)
        renamed[re.sub(r'^stages\.(\d+)\.blocks\.', lambda match: f'features.{2 * int(match[1]) + 1}.', key)] = value
    return renamed


TORCHVISION = Format(
    name='torchvision',
    title="torchvision's",
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    beyond=_NOT_OF_THE_BACKBONE)

TORCHVISION_V2 = replace(
    TORCHVISION,
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.logit_scale'),
    to_mmdet=partial(to_mmdet, version=2),
    from_mmdet=from_v2,
    version=2,
    position='log_cpb')
