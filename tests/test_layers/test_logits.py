"""Bias and masks as they are added to logits: those of CUDA, which need no GPU to be looked at, against the plain."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from swin_pos_det.layers import logits, softmax_attention, window_plan
from swin_pos_det.layers.compact import compact_plan
from swin_pos_det.layers.logits import added_logits

CPU = torch.device('cpu')
PLANS = {
    'plain': dict(shift=(0, 0)),
    'shifted': dict(shift=(1, 2)),
    'shifted down': dict(shift=(1, 0)),
    'hidden': dict(shift=(1, 2), hide_padding=True),
}


def queries(plan, device='cpu'):
    """As much of a tensor of queries as is asked for."""
    return SimpleNamespace(device=torch.device(device), dtype=torch.float32, shape=(plan.num_windows, 2, 12, 5),
                           new_zeros=torch.zeros)


def in_full(plan, bias, device):
    parts = torch.zeros(plan.num_windows, 2, 12, 12)
    seen = torch.zeros(plan.num_windows)
    for at, added in added_logits(bias, plan.groups, queries(plan, device)):
        seen[at] += 1
        parts[at] = 0 if added is None else added
        if device == 'cuda' and added is not None:
            assert all(stride % 8 == 0 for stride in added.stride()[:3] if stride) and added.stride(3) == 1
    assert seen.eq(1).all()
    return parts


@pytest.mark.parametrize('limit', [None, 'JOINED_TOKENS', 'JOINED_WINDOWS'])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('name', PLANS)
def test_cuda_adds_the_same(monkeypatch, name, with_bias, limit):
    if limit:
        monkeypatch.setattr(logits, limit, 0)
    plan = window_plan(2, (9, 13), (3, 4), device=CPU, **PLANS[name])
    bias = torch.randn(2, 12, 12) if with_bias else None
    got = list(added_logits(bias, plan.groups, queries(plan, 'cuda')))
    assert len(got) == (len(plan.groups) if limit else 1)
    torch.testing.assert_close(in_full(plan, bias, 'cuda'), in_full(plan, bias, 'cpu'), rtol=0, atol=0)


def test_a_mask_is_made_once_and_can_be_trained_with():
    plan = window_plan(1, (9, 12), (3, 4), (1, 1), CPU)
    with torch.inference_mode():
        mask = plan.groups[-1].mask(torch.float32)
    assert plan.groups[-1].mask(torch.float32) is mask and not mask.is_inference()
    assert plan.groups[-1].mask(torch.float64).dtype == torch.float64
    assert plan.groups[-1].mask(torch.float32, room=4).shape == (1, 1, 12, 16)


def test_masks_of_single_windows_and_large_ones_are_not_kept():
    hidden = window_plan(1, (9, 13), (3, 4), (1, 1), CPU, hide_padding=True)
    own = next(group for group in hidden.groups if not group.shares_mask)
    large = window_plan(1, (40, 40), (20, 20), (1, 1), CPU).groups[-1]
    stood_in = compact_plan(window_plan(1, (9, 13), (3, 4), (1, 1), CPU)).groups[-1].tokens  # there may be many of them
    for group in (own, large, stood_in):
        assert group.mask(torch.float32) is not group.mask(torch.float32)
        assert not group._masks


@pytest.mark.parametrize('most', [1, 7, 10**6])
@pytest.mark.parametrize('name', PLANS)
def test_more_windows_than_a_device_takes_at_once(monkeypatch, name, most):
    """They are split, and nothing changes, gradients included."""
    plan = window_plan(2, (9, 13), (3, 4), device=CPU, **PLANS[name])
    q, k, v = (torch.randn(plan.num_windows, 2, 12, 5, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 12, 12, requires_grad=True)
    found = []
    for limits in ({}, {'cpu': most}):
        monkeypatch.setattr(softmax_attention, 'MAX_WINDOWS', limits)
        out = softmax_attention._sdpa(q, k, v, bias, plan.groups, 0.3, 0.)
        found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v, bias))])
    for got, want in zip(*found):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
