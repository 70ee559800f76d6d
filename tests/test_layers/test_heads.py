"""Queries, keys and values as views of one tensor, and their gradients."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers.heads import room_for_gradients, split_heads


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


class Known(torch.autograd.Function):
    """Something whose gradients of queries, keys and values are given, as an attention's are."""

    @staticmethod
    def forward(ctx, q, k, v, grads):
        ctx.grads = grads
        return q.sum() + k.sum() + v.sum()

    @staticmethod
    def backward(ctx, grad):
        return (*ctx.grads, None)


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (0, 0, 1)], ids=str)
def test_gradients_side_by_side_are_taken_as_they_are_and_no_others(order):
    windows = packed()
    q, k, v = split_heads(windows, 2)
    room = room_for_gradients(q)
    for i, each in enumerate(room):
        each.copy_(torch.full_like(each, i))
    grad, = torch.autograd.grad(Known.apply(q, k, v, [room[i] for i in order]), windows)
    assert (grad.data_ptr() == room[0].data_ptr()) == (order == (0, 1, 2))
    assert [grad[..., i * 10:i * 10 + 10].unique().tolist() for i in range(3)] == [[float(i)] for i in order]


def test_room_of_another_shape_is_not_mistaken():
    """Of gradients that are a part of a larger room only that part is taken."""
    windows = packed()
    q, k, v = split_heads(windows, 2)
    larger = room_for_gradients(torch.empty(6, 2, 4, 5, dtype=torch.float64))
    for i, each in enumerate(larger):
        each.copy_(torch.full_like(each, i))
    grad, = torch.autograd.grad(Known.apply(q, k, v, [each[:3] for each in larger]), windows)
    assert grad.shape == windows.shape
    assert [grad[..., i * 10:i * 10 + 10].unique().tolist() for i in range(3)] == [[0.], [1.], [2.]]
