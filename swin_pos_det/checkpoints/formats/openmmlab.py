"""The names of mmdet and mmpretrain, which are this project's own."""
from __future__ import annotations

import re
from typing import Dict, Sequence

from torch import Tensor

from .base import Format, Pair, StateDict, with_indices


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Nothing to do: mmpretrain's patch merging is Unfold's too."""
    return dict(state_dict)


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """The state dict of mmdet's ``SwinTransformer``: with its index buffers."""
    return with_indices(dict(state_dict), windows)


OPENMMLAB = Format(
    name='mmdet',
    title="OpenMMLab's",
    signature=re.compile(r'(.*?)stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet)
