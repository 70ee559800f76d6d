"""Hugging Face's names: ``SwinModel``, ``SwinBackbone``, ``SwinForImageClassification`` (under ``swin.``) and others.

So are those of ``Swinv2Model`` and its like (under ``swinv2.``), with ``continuous_position_bias_mlp``.

https://github.com/huggingface/transformers. Queries, keys and values are three layers. Since version 5 the modules in
memory have other names than the files that ``save_pretrained`` writes; both are read, the files' are written.
"""
from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Dict, Sequence

import torch
from torch import Tensor

from ...ops.windows import Pair
from .base import Format, StateDict, deinterleave, interleave, is_merged, rename, with_indices

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
    (r'\.continuous_position_bias_mlp\.', '.cpb_mlp.'),
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
    (r'\.cpb_mlp\.', '.continuous_position_bias_mlp.'),
    (r'\.ffn\.layers\.0\.0\.', '.intermediate.dense.'),
    (r'\.ffn\.layers\.1\.', '.output.dense.'),
)
_PARTS = ('query', 'key', 'value')
_OUTPUT_NORM = re.compile(r'^hidden_states_norms\.stage(\d+)\.')  # counted from 1
_NOT_OF_THE_BACKBONE = re.compile(r'^(layernorm|pooler)\.|^embeddings\.mask_token$')


def to_mmdet(state_dict: StateDict, version: int = 1) -> Dict[str, Tensor]:
    """Rename, join queries, keys and values, and interleave the channels of patch merging.

    In Swin V2 keys have no bias, and those of queries and values stay apart.
    """
    converted: Dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if _NOT_OF_THE_BACKBONE.search(key):
            continue
        key = _OUTPUT_NORM.sub(lambda match: f'norm{int(match[1]) - 1}.', rename(key, _TO_MMDET))
        converted[key] = interleave(value) if is_merged(key, version) else value
    for key in [key for key in converted if '.attn.w_msa.query.' in key]:
        names = [key.replace('.query.', f'.{part}.') for part in _PARTS]
        if all(name in converted for name in names):
            converted[key.replace('.query.', '.qkv.')] = torch.cat([converted.pop(name) for name in names])
    for part in ('query', 'value') if version == 2 else ():
        for key in [key for key in converted if key.endswith(f'.attn.w_msa.{part}.bias')]:
            converted[key.replace(f'.{part}.bias', f'.{part[0]}_bias')] = converted.pop(key)
    return converted


def from_mmdet(state_dict: StateDict, windows: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of a ``SwinBackbone`` whose ``out_features`` are the stages with an output norm."""
    converted: Dict[str, Tensor] = {}
    for key, value in state_dict.items():
        key = re.sub(r'^norm(\d+)\.', lambda match: f'hidden_states_norms.stage{int(match[1]) + 1}.', key)
        key = rename(key, _FROM_MMDET)
        if '.attention.self.qkv.' in key:
            converted.update((key.replace('.qkv.', f'.{part}.'), chunk) for part, chunk in zip(_PARTS, value.chunk(3)))
        else:
            converted[key] = deinterleave(value) if '.downsample.' in key else value
    return with_indices(converted, windows)


def from_v2(state_dict: StateDict, windows: Sequence[Pair], learned: Sequence[Pair]) -> Dict[str, Tensor]:
    """Return the state dict of a ``Swinv2Backbone``, which has no norms of its outputs and no buffers."""
    converted: Dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if re.match(r'norm\d+\.', key):
            continue
        key = rename(re.sub(r'\.(q|v)_bias$', lambda match: f'.{_PARTS["qkv".index(match[1])]}.bias', key), _FROM_MMDET)
        if key.endswith('.attention.self.qkv.weight'):
            converted.update((key.replace('.qkv.', f'.{part}.'), chunk) for part, chunk in zip(_PARTS, value.chunk(3)))
        else:
            converted[key] = deinterleave(value) if is_merged(key, 2) else value
    return converted


HUGGING_FACE = Format(
    name='hf',
    title="Hugging Face's",
    signature=re.compile(r'(.*?)encoder\.layers\.0\.blocks\.0\.attention\.(?:self\.query|q_proj)\.weight'),
    to_mmdet=to_mmdet,
    from_mmdet=from_mmdet,
    beside='hidden_states_norms.',
    beyond=_NOT_OF_THE_BACKBONE)

HUGGING_FACE_V2 = replace(
    HUGGING_FACE,
    signature=re.compile(r'(.*?)encoder\.layers\.0\.blocks\.0\.attention\.(?:self\.)?logit_scale'),
    to_mmdet=partial(to_mmdet, version=2),
    from_mmdet=from_v2,
    beside=None,
    version=2,
    position='log_cpb')
