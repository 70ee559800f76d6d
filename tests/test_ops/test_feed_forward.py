"""GELU and a linear layer in one, against the two one after the other."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swin_pos_det.ops.feed_forward import gelu_linear


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(5, 8), (2, 3, 8)])
def test_equals_the_two_layers(shape, bias):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, torch.randn(4, 8, dtype=torch.float64, requires_grad=True)]
    inputs += [torch.randn(4, dtype=torch.float64, requires_grad=True)] if bias else []
    got = gelu_linear(*inputs, *([] if bias else [None]))
    want = F.linear(F.gelu(x), *inputs[1:])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    weights = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (got, want))):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_only_what_goes_into_gelu_is_kept():
    x, weight = torch.randn(6, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.shape) or saved, lambda own: own):
        gelu_linear(x, weight, None)
    assert sorted(kept) == [(4, 8), (6, 8)]


def test_frozen_weights_and_half_precision():
    x = torch.randn(6, 8, dtype=torch.bfloat16, requires_grad=True)
    weight, bias = torch.randn(4, 8), torch.randn(4, requires_grad=True)
    out = gelu_linear(x, weight, bias)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and bias.grad.dtype == torch.float32 and weight.grad is None
