"""WindowAttention against the slow reference, outputs and gradients."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.layers import WindowAttention, window_plan
from tests import reference

CASES = [
    # batch, size, window, shift, table's window, qkv_bias
    (1, (4, 4), (2, 2), (0, 0), (2, 2), True),
    (2, (5, 7), (3, 3), (1, 1), (3, 3), True),
    (2, (5, 7), (3, 3), (1, 1), (3, 3), False),
    (1, (6, 5), (2, 4), (1, 2), (3, 3), True),
    (1, (1, 9), (4, 4), (2, 2), (2, 5), True),
    (2, (3, 2), (7, 7), (3, 3), (4, 4), False),
]


@pytest.mark.parametrize(('batch', 'size', 'window', 'shift', 'table_window', 'qkv_bias'), CASES)
def test_equals_the_reference(batch, size, window, shift, table_window, qkv_bias):
    attention = WindowAttention(8, 2, table_window, qkv_bias=qkv_bias)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(batch, size[0] * size[1], 8, requires_grad=True)
    weights = torch.randn_like(x)

    got = attention(x, window_plan(batch, size, window, shift, x.device))
    inputs = [x, *attention.parameters()]
    got_grads = torch.autograd.grad((got * weights).sum(), inputs)
    want = reference.attend_in_windows(x, size, window, shift, attention.relative_position_bias_table, table_window,
                                       (attention.qkv.weight, attention.qkv.bias),
                                       (attention.proj.weight, attention.proj.bias))
    want_grads = torch.autograd.grad((want * weights).sum(), inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    for got_grad, want_grad in zip(got_grads, want_grads):
        torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-5)


def test_attention_dropout_acts_in_training_only():
    attention = WindowAttention(8, 2, (2, 2), attn_drop_rate=0.5)
    x = torch.randn(1, 16, 8)
    plan = window_plan(1, (4, 4), (2, 2), (0, 0), x.device)
    assert not torch.equal(attention(x, plan), attention(x, plan))
    attention.eval()
    assert torch.equal(attention(x, plan), attention(x, plan))
