"""timm's names since 0.9 (https://github.com/huggingface/pytorch-image-models); earlier ones are the Swin authors'.

Patch merging stands at the start of a stage, not at the end of the one before. With ``features_only=True`` stages are
called ``layers_0`` instead of ``layers.0``.
"""
from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Dict, Optional, Sequence

from torch import Tensor

from ...errors import SettingError
from ...ops.windows import Pair
from . import microsoft
from .base import Format, StateDict

_STAGE_OF_DOWNSAMPLE = re.compile(r'^layers\.(\d+)(?=\.downsample\.)')


def to_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Move patch merging to the end of the stage before; the rest is as in the Swin authors' files."""
    moved = {}
    for key, value in state_dict.items():
        key = re.sub(r'^layers_', 'layers.', key)
        moved[_STAGE_OF_DOWNSAMPLE.sub(lambda match: f'layers.{int(match[1]) - 1}', key)] = value
    return microsoft.to_mmdet(moved, version)


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair], learned: Optional[Sequence[Pair]] = None,
               version: int = 1) -> Dict[str, Tensor]:
    """Return the state dict of timm's ``SwinTransformer(num_classes=0)``; its final norm is the last output's.

    It has no buffers, so it does not show the windows.

    Raises:
        ValueError: for weights with an absolute position embedding, which timm's Swin does not have.
    """
    if 'absolute_pos_embed' in state_dict:
        raise SettingError("timm's Swin has no absolute position embedding, these weights have")
    moved = {}
    for key, value in microsoft.renamed_from_mmdet(microsoft.without_output_norms(state_dict), version).items():
        moved[_STAGE_OF_DOWNSAMPLE.sub(lambda match: f'layers.{int(match[1]) + 1}', key)] = value
    return {**moved, **microsoft.final_norm(state_dict, len(windows) - 1)}


TIMM = Format(
    name='timm',
    title="timm's",
    signature=re.compile(r'(.*?)layers[._]0\.blocks\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    excluded=re.compile(r'layers[._]0\.downsample\.'),
    beyond=microsoft.NOT_OF_THE_BACKBONE)

TIMM_V2 = replace(
    TIMM,
    signature=re.compile(r'(.*?)layers[._]0\.blocks\.0\.attn\.logit_scale'),
    to_mmdet=partial(to_mmdet, version=2),
    from_mmdet=partial(from_mmdet, version=2),
    version=2,
    position='log_cpb')
