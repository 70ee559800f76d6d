"""Bias and masks as they are added to logits: those of CUDA, which need no GPU to be looked at, against the plain."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from swin_pos_det.ops import masks, sdpa
from swin_pos_det.ops.cpu_inference.unpadded import unpadded_plan
from swin_pos_det.ops.masks import attn_masks
from swin_pos_det.ops.position_bias import PositionBias
from swin_pos_det.ops.windows import window_plan

CPU = torch.device('cpu')
PLANS = {
    'plain': dict(shift=(0, 0)),
    'shifted': dict(shift=(1, 2)),
    'shifted down': dict(shift=(1, 0)),
    'hidden': dict(shift=(1, 2), hide_padding=True),
}


def queries(plan, device='cpu'):
    """Return the part of a tensor of queries that is asked for."""
    return SimpleNamespace(device=torch.device(device), dtype=torch.float32, shape=(plan.num_windows, 2, 12, 5),
                           new_zeros=torch.zeros)


def in_full(plan, bias, device):
    parts = torch.zeros(plan.num_windows, 2, 12, 12)
    seen = torch.zeros(plan.num_windows)
    for at, mask in attn_masks(bias, plan.groups, queries(plan, device)):
        seen[at] += 1
        parts[at] = 0 if mask is None else mask
        if device == 'cuda' and mask is not None:
            assert all(stride % 8 == 0 for stride in mask.stride()[:3] if stride) and mask.stride(3) == 1
    assert seen.eq(1).all()
    return parts


@pytest.mark.parametrize('limit', [None, 'MAX_JOINED_TOKENS', 'MAX_JOINED_WINDOWS'])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('name', PLANS)
def test_cuda_adds_the_same(monkeypatch, name, with_bias, limit):
    if limit:
        monkeypatch.setattr(masks, limit, 0)
    plan = window_plan(2, (9, 13), (3, 4), device=CPU, **PLANS[name])
    bias = torch.randn(2, 12, 12) if with_bias else None
    got = list(attn_masks(bias, plan.groups, queries(plan, 'cuda')))
    assert len(got) == (len(plan.groups) if limit else 1)
    torch.testing.assert_close(in_full(plan, bias, 'cuda'), in_full(plan, bias, 'cpu'), rtol=0, atol=0)


def test_a_mask_is_made_once_and_can_be_trained_with():
    plan = window_plan(1, (9, 12), (3, 4), (1, 1), CPU)
    with torch.inference_mode():
        mask = plan.groups[-1].mask(torch.float32)
    assert plan.groups[-1].mask(torch.float32) is mask and not mask.is_inference()
    assert plan.groups[-1].mask(torch.float64).dtype == torch.float64
    assert plan.groups[-1].mask(torch.float32, align_pad=4).shape == (1, 1, 12, 16)


def test_masks_of_single_windows_and_large_ones_are_not_kept():
    hidden = window_plan(1, (9, 13), (3, 4), (1, 1), CPU, hide_padding=True)
    own = next(group for group in hidden.groups if not group.shares_mask)
    large = window_plan(1, (40, 40), (20, 20), (1, 1), CPU).groups[-1]
    unpadded = unpadded_plan(window_plan(1, (9, 13), (3, 4), (1, 1), CPU)).groups[-1].tokens
    for group in (own, large, unpadded):
        assert group.mask(torch.float32) is not group.mask(torch.float32)
        assert not group._masks


@pytest.mark.parametrize('most', [1, 7, 10**6])
@pytest.mark.parametrize('name', PLANS)
def test_more_windows_than_a_device_takes_at_once(monkeypatch, name, most):
    """They are split, and nothing changes, gradients included."""
    plan = window_plan(2, (9, 13), (3, 4), device=CPU, **PLANS[name])
    qkv = torch.randn(2, 9 * 13, 3 * 10, requires_grad=True)
    bias = torch.randn(2, 12, 12, requires_grad=True)
    found = []
    for limits in ({}, {'cpu': most}):
        monkeypatch.setattr(sdpa, 'MAX_WINDOWS', limits)
        out = sdpa.attention(qkv, plan, PositionBias(plan.window, pairs=bias), 2, 0.3, None, None, 0.)
        found.append([out, *torch.autograd.grad(out.square().sum(), (qkv, bias))])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
