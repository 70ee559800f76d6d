"""torchvision's names (https://github.com/pytorch/vision): patch embedding, stages and merging in a row."""
from __future__ import annotations

import re
from typing import Dict, Sequence

import torch
from torch import Tensor

from .base import Format, Pair, StateDict, deinterleave, interleave, rename, with_indices

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


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Rename: ``features.1`` is the first stage, ``features.2`` the patch merging behind it, and so on."""
    converted = {}
    for key, value in state_dict.items():
        if not key.startswith('features.'):
            continue  # the classifier and the norm before it
        if _MERGING.match(key):
            value = interleave(value)
        key = rename(key, _RULES)
        key = _MERGING.sub(lambda match: f'stages.{int(match[1]) // 2 - 1}.downsample.', key)
        key = _BLOCK.sub(lambda match: f'stages.{int(match[1]) // 2}.blocks.{match[2]}.', key)
        converted[key] = value
    return converted


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """The state dict of torchvision's ``SwinTransformer`` without its classifier; its final norm is the last output's.

    Raises:
        ValueError: for weights with an absolute position embedding, which torchvision's Swin has not.
    """
    if 'absolute_pos_embed' in state_dict:
        raise ValueError("torchvision's Swin has no absolute position embedding, these weights have")
    converted = {}
    for key, value in with_indices(dict(state_dict), windows, 'flat').items():
        if re.match(r'norm\d+\.', key):
            continue
        value = deinterleave(value) if '.downsample.' in key else value
        key = rename(key, _FROM_MMDET)
        key = re.sub(r'^stages\.(\d+)\.downsample\.', lambda match: f'features.{2 * int(match[1]) + 2}.', key)
        converted[re.sub(r'^stages\.(\d+)\.blocks\.', lambda match: f'features.{2 * int(match[1]) + 1}.', key)] = value
    last = len(windows) - 1
    dims = state_dict[f'stages.{last}.blocks.0.norm1.weight']
    converted['norm.weight'] = state_dict.get(f'norm{last}.weight', torch.ones_like(dims))
    converted['norm.bias'] = state_dict.get(f'norm{last}.bias', torch.zeros_like(dims))
    return converted


TORCHVISION = Format(
    name='torchvision',
    title="torchvision's",
    signature=re.compile(r'(.*?)features\.1\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet)
