"""The fused kernel on a real GPU: compiled, right, and chosen."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers import window_plan
from swin_pos_det.ops import self_check
from swin_pos_det.ops import window_attention as door
from swin_pos_det.ops.position_bias import PositionBias
from swin_pos_det.ops.triton import unsupported

CUDA = torch.device('cuda')


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('padding', ['attend', 'mask', 'batch'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('window', [2, 5, 7, 12, 16])
def test_it_passes_its_check(monkeypatch, window, dtype, padding, train):
    monkeypatch.setattr(self_check, '_passed', {})
    plan = window_plan(1, (40, 50), (window, window), (window // 2, window // 2), CUDA, padding != 'attend',
                       [(30, 41)] if padding == 'batch' else None)
    bias = PositionBias(plan.window, table=torch.zeros((2 * window - 1)**2, 3, device=CUDA))
    qkv, pad = torch.zeros(1, 2000, 288, device=CUDA, dtype=dtype), torch.zeros(288, device=CUDA)
    arguments = qkv, plan, bias, 3, 32**-.5, pad, None, 0.
    if unsupported(*arguments):
        pytest.skip(f'the kernel does not support this GPU or these arguments: {unsupported(*arguments)}')
    with torch.set_grad_enabled(train):
        assert door.choose(*arguments) == 'triton'  # else a warning says why
    assert len(self_check._passed) == 1
