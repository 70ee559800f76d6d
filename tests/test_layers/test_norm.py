"""Layer norm over channels, by its definition."""
from __future__ import annotations

import torch
from mmcv.cnn import ConvModule, build_norm_layer

import swin_pos_det  # noqa: F401  registers it
from swin_pos_det.layers.norm import LayerNorm2d


def test_equals_its_definition_with_gradients():
    norm = LayerNorm2d(5).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    centred = x - x.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    want = centred / (variance + 1e-6).sqrt() * norm.weight.view(1, 5, 1, 1) + norm.bias.view(1, 5, 1, 1)
    assert torch.allclose(norm(x), want, rtol=0, atol=1e-12)
    weights = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (norm(x), want))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_no_rois():
    assert LayerNorm2d(5)(torch.zeros(0, 5, 7, 7)).shape == (0, 5, 7, 7)


def test_a_config_can_name_it():
    name, norm = build_norm_layer(dict(type='LayerNorm2d', eps=1e-3), 8)
    assert (name, type(norm), norm.eps) == ('ln', LayerNorm2d, 1e-3)
    assert isinstance(norm, torch.nn.LayerNorm), 'so that norm_decay_mult finds it'
    assert ConvModule(3, 8, 1, norm_cfg=dict(type='LayerNorm2d'))(torch.zeros(1, 3, 2, 2)).shape == (1, 8, 2, 2)
