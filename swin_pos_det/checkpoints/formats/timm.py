"""timm's names since 0.9 (https://github.com/huggingface/pytorch-image-models); earlier ones are the Swin authors'.

Patch merging stands at the start of a stage, not at the end of the one before. With ``features_only=True`` stages are
called ``layers_0`` instead of ``layers.0``.
"""
from __future__ import annotations

import re
from typing import Dict, Sequence

import torch
from torch import Tensor

from . import microsoft
from .base import Format, Pair, StateDict

_STAGE_OF_DOWNSAMPLE = re.compile(r'^layers\.(\d+)(?=\.downsample\.)')
_OUTPUT_NORM = re.compile(r'^norm\d+\.')


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Move patch merging to the end of the stage before; the rest is as in the Swin authors' files."""
    moved = {}
    for key, value in state_dict.items():
        key = re.sub(r'^layers_', 'layers.', key)
        moved[_STAGE_OF_DOWNSAMPLE.sub(lambda match: f'layers.{int(match[1]) - 1}', key)] = value
    return microsoft.to_mmdet(moved)


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """The state dict of timm's ``SwinTransformer(num_classes=0)``; its final norm is the last output's.

    Raises:
        ValueError: for weights with an absolute position embedding, which timm's Swin has not.
    """
    if 'absolute_pos_embed' in state_dict:
        raise ValueError("timm's Swin has no absolute position embedding, these weights have")
    moved = {}
    for key, value in microsoft.from_mmdet(state_dict, windows).items():
        if not _OUTPUT_NORM.match(key) and not key.endswith('relative_position_index'):
            moved[_STAGE_OF_DOWNSAMPLE.sub(lambda match: f'layers.{int(match[1]) + 1}', key)] = value
    last = len(windows) - 1
    dims = state_dict[f'stages.{last}.blocks.0.norm1.weight'].shape[0]
    moved['norm.weight'] = state_dict.get(f'norm{last}.weight', torch.ones(dims))
    moved['norm.bias'] = state_dict.get(f'norm{last}.bias', torch.zeros(dims))
    return moved


TIMM = Format(
    name='timm',
    title="timm's",
    signature=re.compile(r'(.*?)layers[._]0\.blocks\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    excluded=re.compile(r'layers[._]0\.downsample\.'),
    beyond=microsoft.NOT_OF_THE_BACKBONE)
