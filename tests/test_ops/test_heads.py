"""Queries, keys and values as views of one tensor, and their gradients."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.ops.heads import split_heads


def packed(requires_grad=True):
    return torch.randn(3, 4, 3 * 2 * 5, dtype=torch.float64).requires_grad_(requires_grad)


def test_are_views_in_the_order_of_the_projection():
    windows = packed(requires_grad=False)
    for i, each in enumerate(split_heads(windows, 2)):
        assert each.shape == (3, 2, 4, 5) and each.data_ptr() == windows[0, 0, i * 10:].data_ptr()
        torch.testing.assert_close(each, windows[..., i * 10:i * 10 + 10].unflatten(2, (2, 5)).transpose(1, 2),
                                   rtol=0, atol=0)


@pytest.mark.parametrize('used', [(0, 1, 2), (1, 2), (0, 2), (2, )])
def test_gradients_equal_those_of_slices(used):
    windows = packed()
    weights = torch.randn(3, 3, 2, 4, 5, dtype=torch.float64)
    slices = [each.unflatten(2, (2, 5)).transpose(1, 2) for each in windows.chunk(3, dim=2)]
    grads = [torch.autograd.grad(sum((three[i] * weights[i]).square().sum() for i in used), windows)[0]
             for three in (split_heads(windows, 2), slices)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
