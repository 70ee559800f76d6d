"""Windows without their padding against whole ones."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers import WindowAttention, window_plan
from swin_pos_det.ops.cpu_inference.attention import attend_without_padding
from swin_pos_det.ops.cpu_inference.unpadded import unpadded_plan
from swin_pos_det.ops.window_attention import window_attention
from swin_pos_det.ops.windows import MAX_CACHED_PLANS

CASES = [
    # batch, size, window, shift
    (2, (4, 4), (2, 2), (0, 0)),
    (2, (5, 7), (3, 3), (1, 1)),
    (1, (50, 21), (24, 24), (12, 12)),
    (1, (9, 11), (4, 6), (2, 3)),
    (2, (1, 9), (4, 4), (2, 2)),
    (1, (3, 2), (7, 7), (3, 3)),
    (1, (15, 8), (7, 7), (0, 0)),
]


@pytest.mark.parametrize('hidden', ['shown', 'hidden', 'hidden with the batch\'s'])
@pytest.mark.parametrize(('batch', 'size', 'window', 'shift'), CASES)
@pytest.mark.parametrize('settings', [
    dict(), dict(qkv_bias=False), dict(position='none'), dict(attention='cosine', position='log_cpb', key_bias=False)])
@torch.no_grad()
def test_equals_whole_windows(batch, size, window, shift, settings, hidden):
    attention = WindowAttention(8, 2, (5, 4), **settings).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    valid = [(size[0], max(1, size[1] - 3 * image)) for image in range(batch)] if 'batch' in hidden else None
    plan = window_plan(batch, size, window, shift, torch.device('cpu'), hidden != 'shown', valid)
    tokens = torch.randn(batch * size[0] * size[1], 8, dtype=torch.float64)
    got = attend_without_padding(attention, tokens, None, plan)
    want = window_attention(**attention.inputs(tokens.view(batch, -1, 8), plan)).flatten(0, 1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_only_tokens_and_pad_tokens_are_left():
    plan = unpadded_plan(window_plan(1, (50, 84), (24, 24), (12, 12), torch.device('cpu')))
    pad_tokens = sum(group.gather.shape[0] for group in plan.groups if group.pad_token is not None)
    assert sum(group.gather.numel() for group in plan.groups) == 50 * 84 + pad_tokens
    assert 0 < pad_tokens < 12, 'of 3 x 4 windows'


def test_extreme_biases_leave_numbers():
    attention = WindowAttention(8, 2, (4, 4))
    torch.nn.init.normal_(attention.relative_position_bias_table, std=1e4)
    tokens = torch.randn(5 * 6, 8)
    plan = window_plan(1, (5, 6), (4, 4), (2, 2), tokens.device)
    with torch.no_grad():
        assert attend_without_padding(attention, tokens, None, plan).isfinite().all()


def test_the_cache_is_bounded():
    for length in range(1, 3 * MAX_CACHED_PLANS):
        unpadded_plan(window_plan(1, (length, 3), (4, 4), (0, 0), torch.device('cpu')))
    assert unpadded_plan.cache_info().currsize == MAX_CACHED_PLANS
