"""Linear layers prepared for inference against torch's own."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swin_pos_det.ops.cpu_inference import linear
from swin_pos_det.ops.cpu_inference.linear import prepared_linear


def prepared(layer, rows):
    return prepared_linear(layer.weight, layer.bias, rows)


@pytest.fixture(params=['with oneDNN', 'without'])
def onednn(request):
    if request.param == 'with oneDNN' and not torch.backends.mkldnn.is_available():
        pytest.skip('torch was built without oneDNN, which is then never called')
    with torch.backends.mkldnn.flags(enabled=request.param == 'with oneDNN'):
        yield request.param == 'with oneDNN'


@pytest.mark.parametrize('rows', [(), (70, ), (71, )])
@pytest.mark.parametrize('gelu', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@torch.no_grad()
def test_equals_torchs(onednn, rows, gelu, bias):
    layer, x = nn.Linear(24, 40, bias=bias), torch.randn(70, 24)
    assert linear._onednn_takes(layer.weight, torch.float32) == onednn
    got = prepared_linear(layer.weight, layer.bias, rows, gelu)(x)
    want = F.gelu(layer(x)) if gelu else layer(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_other_dtypes(dtype):
    layer, x = nn.Linear(24, 40).to(dtype), torch.randn(70, 24, dtype=dtype)
    got = prepared(layer, (70, ))(x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, layer(x), rtol=0, atol=0.02 if dtype == torch.bfloat16 else 1e-12)


@torch.no_grad()
def test_under_autocast():
    layer, x = nn.Linear(24, 40), torch.randn(70, 24)
    with torch.autocast('cpu', torch.bfloat16):
        got = prepared(layer, (70, ))(x)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, layer(x), rtol=0, atol=0.02)


@torch.no_grad()
def test_weights_may_be_changed_behind_torchs_back():
    layer, x = nn.Linear(24, 40), torch.randn(70, 24)
    prepared(layer, (70, ))(x)
    layer.weight.data.mul_(2)  # as exponential moving averages are swapped in: torch counts no version of it
    torch.testing.assert_close(prepared(layer, (70, ))(x), layer(x), rtol=0, atol=1e-5)


def test_only_numbers_of_rows_that_recur_and_are_large(monkeypatch):
    assert linear.recurring_rows({4067: 16, 784: 1, 100: 9}) == {4067, 784}
    assert linear.recurring_rows({600: 1}) == frozenset(), 'too few to reorder the weights for'
    called = []
    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise', lambda x, *rest: called.append(len(x)) or x)
    layer = prepared(nn.Linear(4, 4), {70})
    for rows in (69, 70, 71):
        layer(torch.zeros(rows, 4))
    assert called == [70]
