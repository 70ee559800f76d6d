"""The Swin authors' names: their classification code, SimMIM, MoBY, and their detection code.

https://github.com/microsoft/Swin-Transformer, https://github.com/SwinTransformer/Swin-Transformer-Object-Detection.
Self-supervised files have the backbone under ``encoder.``, detectors under ``backbone.``. timm before 0.9 kept these
names.
"""
from __future__ import annotations

import re
from typing import Dict, Sequence

from torch import Tensor

from .base import Format, Pair, StateDict, deinterleave, interleave, rename, with_indices

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
# The classifier and the norm before it; the token that stands for masked patches.
NOT_OF_THE_BACKBONE = re.compile(r'^(head|norm|mask_token)(\.|$)')


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Rename to mmdet's names, and interleave the channels of patch merging (see :func:`.base.interleave`)."""
    return {rename(key, TO_MMDET): interleave(value) if '.downsample.' in key else value
            for key, value in state_dict.items() if not NOT_OF_THE_BACKBONE.search(key)}


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """The state dict of the authors' detection backbone: its index buffers too, and an absolute embedding as a map."""
    renamed = {rename(key, FROM_MMDET): deinterleave(value) if '.downsample.' in key else value
               for key, value in state_dict.items()}
    embedding = renamed.get('absolute_pos_embed')
    if embedding is not None:
        side = round(embedding.shape[1]**0.5)
        if side**2 != embedding.shape[1]:
            raise ValueError(f'the Swin authors have absolute position embeddings on square grids only, this one has '
                             f'{embedding.shape[1]} tokens')
        renamed['absolute_pos_embed'] = embedding.transpose(1, 2).unflatten(2, (side, side))
    return with_indices(renamed, windows)


MICROSOFT = Format(
    name='microsoft',
    title="the Swin authors'",
    signature=re.compile(r'(.*?)layers\.0\.blocks\.0\.attn\.qkv\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    beyond=NOT_OF_THE_BACKBONE)
