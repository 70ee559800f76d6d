"""Hugging Face's names: ``SwinModel``, ``SwinBackbone``, ``SwinForImageClassification`` (under ``swin.``) and others.

https://github.com/huggingface/transformers. Queries, keys and values are three layers. Since version 5 the modules in
memory have other names than the files that ``save_pretrained`` writes; both are read, the files' are written.
"""
from __future__ import annotations

import re
from typing import Dict, Sequence

import torch
from torch import Tensor

from .base import Format, Pair, StateDict, deinterleave, interleave, rename, with_indices

_TO_MMDET = (
    (r'\.attention\.(q|k|v)_proj\.', r'.attention.self.\1_proj.'),
    (r'\.attention\.relative_position_bias\.', '.attention.self.'),
    (r'\.attention\.o_proj\.', '.attention.output.dense.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
    (r'\.q_proj\.', '.query.'),
    (r'\.k_proj\.', '.key.'),
    (r'\.v_proj\.', '.value.'),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.projection.'),
    (r'^embeddings\.norm\.', 'patch_embed.norm.'),
    (r'^embeddings\.position_embeddings$', 'absolute_pos_embed'),
    (r'^encoder\.layers\.', 'stages.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.self\.', '.attn.w_msa.'),
    (r'\.attention\.output\.dense\.', '.attn.w_msa.proj.'),
    (r'\.intermediate\.dense\.', '.ffn.layers.0.0.'),
    (r'\.output\.dense\.', '.ffn.layers.1.'),
)
_FROM_MMDET = (
    (r'^patch_embed\.projection\.', 'embeddings.patch_embeddings.projection.'),
    (r'^patch_embed\.norm\.', 'embeddings.norm.'),
    (r'^absolute_pos_embed$', 'embeddings.position_embeddings'),
    (r'^stages\.', 'encoder.layers.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (r'\.attn\.w_msa\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.w_msa\.', '.attention.self.'),
    (r'\.ffn\.layers\.0\.0\.', '.intermediate.dense.'),
    (r'\.ffn\.layers\.1\.', '.output.dense.'),
)
_PARTS = ('query', 'key', 'value')
_OUTPUT_NORM = re.compile(r'^hidden_states_norms\.stage(\d+)\.')  # counted from 1
_NOT_OF_THE_BACKBONE = re.compile(r'^(layernorm|pooler)\.|^embeddings\.mask_token$')


def to_mmdet(state_dict: StateDict) -> Dict[str, Tensor]:
    """Rename, join queries, keys and values, and interleave the channels of patch merging."""
    converted: Dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if _NOT_OF_THE_BACKBONE.search(key):
            continue
        key = _OUTPUT_NORM.sub(lambda match: f'norm{int(match[1]) - 1}.', rename(key, _TO_MMDET))
        converted[key] = interleave(value) if '.downsample.' in key else value
    for key in [key for key in converted if '.attn.w_msa.query.' in key]:
        names = [key.replace('.query.', f'.{part}.') for part in _PARTS]
        if all(name in converted for name in names):
            converted[key.replace('.query.', '.qkv.')] = torch.cat([converted.pop(name) for name in names])
    return converted


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """The state dict of a ``SwinBackbone`` whose ``out_features`` are the stages with an output norm."""
    converted: Dict[str, Tensor] = {}
    for key, value in state_dict.items():
        key = re.sub(r'^norm(\d+)\.', lambda match: f'hidden_states_norms.stage{int(match[1]) + 1}.', key)
        key = rename(key, _FROM_MMDET)
        if '.attention.self.qkv.' in key:
            converted.update((key.replace('.qkv.', f'.{part}.'), chunk) for part, chunk in zip(_PARTS, value.chunk(3)))
        else:
            converted[key] = deinterleave(value) if '.downsample.' in key else value
    return with_indices(converted, windows)


HUGGING_FACE = Format(
    name='hf',
    title="Hugging Face's",
    signature=re.compile(r'(.*?)encoder\.layers\.0\.blocks\.0\.attention\.(?:self\.query|q_proj)\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    beside='hidden_states_norms.',
    beyond=_NOT_OF_THE_BACKBONE)
