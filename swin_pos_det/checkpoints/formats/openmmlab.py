"""The names of mmdet and mmpretrain, which are this project's own; for Swin V2, of which mmdet has none, ours alone."""
from __future__ import annotations

import re
from dataclasses import replace
from typing import Dict, Sequence

from torch import Tensor

from ...ops.windows import Pair
from .base import Format, StateDict, with_indices


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Return the keys unchanged: mmpretrain's patch merging is Unfold's too."""
    return dict(state_dict)


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of mmdet's ``SwinTransformer``: with its index buffers."""
    return with_indices(dict(state_dict), windows)


def from_mmpretrain_v2(state_dict: StateDict) -> Dict[str, Tensor]:
    """Convert mmpretrain's ``SwinTransformerV2``: its patch merging, in Unfold's order, moves to the stage before."""
    return {re.sub(r'^stages\.(\d+)(?=\.downsample\.)', lambda match: f'stages.{int(match[1]) - 1}', key): value
            for key, value in state_dict.items()}


OPENMMLAB = Format(
    name='mmdet',
    title="OpenMMLab's",
    signature=re.compile(r'(.*?)stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    native=True)

SWIN_POS_V2 = replace(
    OPENMMLAB,
    title="this project's",
    signature=re.compile(r'(.*?)stages\.0\.blocks\.0\.attn\.w_msa\.logit_scale'),
    from_mmdet=lambda state_dict, windows, learned: dict(state_dict),
    version=2)

MMPRETRAIN_V2 = Format(
    name='mmpretrain',
    title="mmpretrain's",
    signature=re.compile(r'(.*?)stages\.1\.downsample\.reduction\.weight'),
    to_mmdet=from_mmpretrain_v2,
    excluded=re.compile(r'stages\.0\.downsample\.'),
    version=2,
    position='log_cpb')
