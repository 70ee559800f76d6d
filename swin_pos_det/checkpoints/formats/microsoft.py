"""The Swin authors' names: their classification code, SimMIM, MoBY, and their detection code.

https://github.com/microsoft/Swin-Transformer, https://github.com/SwinTransformer/Swin-Transformer-Object-Detection.
Self-supervised files have the backbone under ``encoder.``, detectors under ``backbone.``. timm before 0.9 kept these
names. Their Swin V2 has them too, with ``logit_scale`` and ``cpb_mlp`` where V1 has a table.
"""
from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Dict, Sequence

import torch
from torch import Tensor

from ...ops.windows import Pair
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

TO_MMDET = (
    (r'^layers\.', 'stages.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
FROM_MMDET = (
    (r'^stages\.', 'layers.'),
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'\.attn\.w_msa\.', '.attn.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)
# The classifier and the norm before it; the token for masked patches.
NOT_OF_THE_BACKBONE = re.compile(r'^(head|norm|mask_token)(\.|$)')
OUTPUT_NORM = re.compile(r'^norm\d+\.')


def to_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Rename to mmdet's names, and interleave the channels of patch merging (see :func:`.base.interleave`)."""
    return {rename(key, TO_MMDET): interleave(value) if is_merged(key, version) else value
            for key, value in state_dict.items() if not NOT_OF_THE_BACKBONE.search(key)}


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of the authors' detection backbone, with its index buffers."""
    return with_indices(renamed_from_mmdet(state_dict), windows)


def renamed_from_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Rename from mmdet's names, and put the channels of patch merging back in the authors' order."""
    return {rename(key, FROM_MMDET): deinterleave(value) if is_merged(key, version) else value
            for key, value in state_dict.items()}


def from_v2(state_dict: StateDict, windows: Sequence[Pair], learned: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of the authors' ``SwinTransformerV2(num_classes=0)``, with the last output's norm."""
    last = len(windows) - 1
    renamed = with_coordinates(renamed_from_mmdet(without_output_norms(state_dict), 2), windows, learned)
    return {**renamed, **final_norm(state_dict, last)}


def without_output_norms(state_dict: StateDict) -> Dict[str, Tensor]:
    """Return the backbone without the norms of its outputs."""
    return {key: value for key, value in state_dict.items() if not OUTPUT_NORM.match(key)}


def final_norm(state_dict: StateDict, last: int) -> Dict[str, Tensor]:
    """Return the norm of the last output, as a classifier's final one; the identity where there is none."""
    like = state_dict[f'stages.{last}.blocks.0.norm1.weight']
    return {'norm.weight': state_dict.get(f'norm{last}.weight', torch.ones_like(like)),
            'norm.bias': state_dict.get(f'norm{last}.bias', torch.zeros_like(like))}


MICROSOFT = Format(
    name='microsoft',
    title="the Swin authors'",
    signature=re.compile(r'(.*?)layers\.0\.blocks\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    beyond=NOT_OF_THE_BACKBONE)

MICROSOFT_V2 = replace(
    MICROSOFT,
    signature=re.compile(r'(.*?)layers\.0\.blocks\.0\.attn\.logit_scale'),
    to_mmdet=partial(to_mmdet, version=2),
    from_mmdet=from_v2,
    version=2,
    position='log_cpb')
