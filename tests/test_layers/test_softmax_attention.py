"""The backward pass that makes scores anew, against autograd through the formula."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers import attend, softmax_attention, window_plan


def formula(q, k, v, bias, plan, scale):
    parts, start = [], 0
    for group in plan.groups:
        at = slice(start, start + group.count)
        start += group.count
        mask = group.mask(q.dtype)
        logits = q[at] @ k[at].transpose(-2, -1) * scale + bias
        parts.append((logits if mask is None else logits + mask).softmax(-1) @ v[at])
    return torch.cat(parts)


@pytest.mark.parametrize('few', [0, 192], ids=['all heads', 'head by head'])
@pytest.mark.parametrize('scores', [1, 600, 2**20])
@pytest.mark.parametrize('hide', [False, True])
def test_gradients_are_exact(monkeypatch, scores, hide, few):
    """In float64, whatever is computed at once: a window, a few, or all."""
    monkeypatch.setattr(softmax_attention, 'MAX_SCORES', scores)
    monkeypatch.setattr(softmax_attention, 'FEW_TOKENS', few)
    plan = window_plan(2, (9, 13), (3, 4), (1, 2), torch.device('cpu'), hide_padding=hide)
    q, k, v = (torch.randn(plan.num_windows, 2, 12, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 12, 12, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(plan.num_windows, 2, 12, 5, dtype=torch.float64)
    got, want = attend(q, k, v, bias, plan.groups, 0.3), formula(q, k, v, bias, plan, 0.3)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    grads = [torch.autograd.grad((out * weights).sum(), (q, k, v, bias)) for out in (got, want)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_no_scores_of_all_windows_are_kept():
    plan = window_plan(1, (64, 64), (8, 8), (0, 0), torch.device('cpu'))
    q, k, v = (torch.randn(64, 1, 64, 4, requires_grad=True) for _ in range(3))
    bias = torch.zeros(1, 64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()) or saved, lambda own: own):
        attend(q, k, v, bias, plan.groups, 1.)
    assert kept and max(kept) < 64 * 64 * 64


def test_bfloat16_is_summed_in_float32():
    plan = window_plan(1, (32, 32), (4, 4), (0, 0), torch.device('cpu'))
    exact = [torch.randn(64, 2, 16, 8, dtype=torch.float64) for _ in range(3)] + [torch.randn(2, 16, 16).double()]
    grads = []
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [each.to(dtype).requires_grad_() for each in exact]
        out = attend(*inputs, plan.groups, 8**-0.5)
        grads.append(torch.autograd.grad(out.double().square().sum(), inputs))
    for got, want in zip(grads[1], grads[0]):
        assert got.dtype == torch.bfloat16
        assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize('scores', [1, 2400, 2**20])
@pytest.mark.parametrize('heads_share', [False, True])
@pytest.mark.parametrize('windows_share', [False, True])
def test_products_equal_the_formula(monkeypatch, scores, heads_share, windows_share):
    """What inference on a CPU does in small windows, whatever is computed at once."""
    monkeypatch.setattr(softmax_attention, 'MAX_SCORES', scores)
    q, k, v = (torch.randn(7, 2, 12, 5) for _ in range(3))
    added = torch.randn(1 if windows_share else 7, 1 if heads_share else 2, 12, 12)
    with torch.no_grad():
        got = softmax_attention.attend_with(q, k, v, added, 0.3)
        bare = softmax_attention.attend_with(q, k, v, None, 0.3)
    torch.testing.assert_close(got, (q @ k.mT * 0.3 + added).softmax(-1) @ v, rtol=0, atol=1e-6)
    torch.testing.assert_close(bare, (q @ k.mT * 0.3).softmax(-1) @ v, rtol=0, atol=1e-6)
    assert got.transpose(1, 2).is_contiguous()
