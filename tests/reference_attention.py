"""The slow reference of an attention module: its parameters, in the formulas of the other references."""
from __future__ import annotations

import torch
from torch import Tensor

from swin_pos_det.layers import WindowAttention, WindowSpec
from tests import reference, reference_position


def reference_of(attention: WindowAttention, x: Tensor, spec: WindowSpec) -> Tensor:
    """Compute the expected output of an attention module for (B, L, C) tokens, from its parameters and settings."""
    size, window, shift, hide, valid = spec
    channels = attention.head_dims
    own = dict(attention.named_parameters())
    names = attention.position.name.split('+')
    settings: dict = dict(hide=hide, valid=valid)
    table = own.get('relative_position_bias_table')
    if table is not None:
        settings['bias'] = reference.bias_of_window(
            reference.resized_table(table, attention.table_window_size, window), window)
        settings['appearance'] = 'relative_only' not in names
    if 'cpb_mlp.0.weight' in own:
        settings['bias'] = reference_position.continuous_bias(
            own['cpb_mlp.0.weight'], own['cpb_mlp.0.bias'], own['cpb_mlp.2.weight'], window,
            attention.table_window_size, 'log_cpb' in names)
    if 'rope_axial' in names:
        along = reference_position.axial_frequencies(channels, 100.)
        settings['rotation'] = lambda part, head: reference_position.turned(part, window, *along)
    if 'rope_freqs' in own:
        settings['rotation'] = lambda part, head: reference_position.turned(
            part, window, own['rope_freqs'][0, head], own['rope_freqs'][1, head])
    bias = own.get('qkv.bias')
    if 'q_bias' in own:
        bias = torch.cat([own['q_bias'], torch.zeros_like(own['q_bias']), own['v_bias']])
    return reference_position.attend_in_windows(
        x, size, window, shift, attention.num_heads, (own['qkv.weight'], bias), (own['proj.weight'], own['proj.bias']),
        logit_scale=own.get('logit_scale'), **settings)
