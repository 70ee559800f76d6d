"""The fused kernel under torch's subsystems: autograd, the compiler, counters, transformations."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.compile import nop
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from swin_pos_det.errors import SettingError
from swin_pos_det.layers import WindowAttention, window_plan
from swin_pos_det.ops import use_impl
from swin_pos_det.ops.triton import operator  # noqa: F401  registers the operators
from tests.test_ops.test_window_attention import randomised

from .cases import Case, attend, results

CASE = Case(1, (4, 5), (3, 3), (1, 1))
LARGE = Case(1, (2, 30), (2, 33), (0, 0), channels=4)  # the kernels for windows of more than 64 tokens


def run(attention: WindowAttention, x: Tensor, height: int) -> Tensor:
    plan = window_plan(x.shape[0], (height, x.shape[1] // height), (3, 3), (1, 1), x.device)
    return attention(x, plan)


@pytest.mark.parametrize('case', [CASE, LARGE], ids=str)
def test_derivatives_are_those_of_finite_differences(case):
    inputs = {key: value.requires_grad_() for key, value in case.inputs(torch.float64).items()}

    def function(*values: Tensor) -> Tensor:
        return attend('triton', case, dict(zip(inputs, values)))

    assert torch.autograd.gradcheck(function, tuple(inputs.values()), fast_mode=True)


def test_the_operators_keep_torch_s_rules():
    inputs = CASE.inputs(torch.float32)
    qkv, pad, table = (inputs[key].requires_grad_() for key in ('qkv', 'pad', 'table'))
    settings = [4, 5], [3, 3], [1, 1], False, 1, .25
    forward, backward = (getattr(torch.ops.swin_pos_det, name).default
                         for name in ('window_attention', 'window_attention_backward'))
    arguments = qkv, pad, table, None, *settings
    assert set(torch.library.opcheck(forward, arguments).values()) == {'SUCCESS'}
    with torch.no_grad():
        saved = *arguments[:4], *forward(*arguments)
    arguments = torch.randn_like(saved[4]), *(of if of is None else of.detach() for of in saved), *settings, True, True
    assert set(torch.library.opcheck(backward, arguments).values()) == {'SUCCESS'}


@pytest.mark.parametrize('learn', ['qkv', 'pad', 'table'])
def test_gradients_of_one_input(learn):
    inputs = CASE.inputs(torch.float32)
    weights = torch.randn(1, 20, 16)
    want = results('triton', CASE, inputs, weights)[learn]
    inputs[learn].requires_grad_()
    attend('triton', CASE, inputs).backward(weights)
    assert torch.equal(inputs[learn].grad, want)
    assert all(value.grad is None for key, value in inputs.items() if key != learn)


def test_other_sizes_compile_nothing():
    """One graph for all sizes, without the plan, which only other implementations need."""
    attention, graphs, counts, traces = WindowAttention(8, 1, (3, 3)), [], set(), []
    aot_eager = aot_autograd(fw_compiler=lambda graph, _: graphs.append(graph) or graph, bw_compiler=nop)

    def backend(graph: Any, inputs: Any) -> Any:
        traces.append(graph)
        return aot_eager(graph, inputs)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for batch, height, width in ((3, 7, 8), (2, 8, 9), (2, 9, 7)):
        x = torch.randn(batch, height * width, 8, requires_grad=True)
        with use_impl('triton'):
            outs = [compiled(attention, x, height)]
        counts.add(len(traces))
    # For the first size torch may trace twice: a stored float, such as that of nn.Dropout, is an input at first.
    assert len(counts) == 1 and len(graphs) == 1
    names = {str(node.target) for node in graphs[0].graph.nodes if node.op == 'call_function'}
    assert 'swin_pos_det.window_attention.default' in names
    assert not [name for name in names if 'scatter' in name or 'arange' in name or 'index' in name], names
    with use_impl('triton'):
        outs.append(run(attention, x, height))
    torch.testing.assert_close(*outs)
    weights = torch.randn_like(x)
    grads = [torch.autograd.grad(out, [x, *attention.parameters()], weights) for out in outs]
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want)


def test_counted_operations():
    """Those of the reference; the backward pass computes the scores again, which is one product more in four."""
    inputs = {key: value.requires_grad_() for key, value in CASE.inputs(torch.float32).items()}
    counts = {}
    for name in ('reference', 'triton'):
        with FlopCounterMode(display=False) as forward:
            out = attend(name, CASE, inputs)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        counts[name] = forward.get_total_flops(), backward.get_total_flops()
    forward, backward = counts['reference']
    assert forward == 2 * backward // 4 > 0
    assert counts['triton'] == (forward, backward * 5 // 4)


def test_recomputed_blocks():
    attention, x = randomised(), torch.randn(1, 20, 8, requires_grad=True)
    with use_impl('triton'):
        want = torch.autograd.grad(run(attention, x, 4).sum(), x)
        got = torch.autograd.grad(checkpoint(run, attention, x, 4, use_reentrant=False).sum(), x)
    assert torch.equal(got[0], want[0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype):
    attention, x = randomised(), torch.randn(1, 20, 8)
    outs, grads = [], []
    for name in ('reference', 'triton'):
        with use_impl(name), torch.autocast('cpu', dtype):
            out = run(attention, x, 4)
        assert out.dtype == dtype
        outs.append(out.float())
        grads.append(torch.autograd.grad(out.float().square().sum(), list(attention.parameters())))
    torch.testing.assert_close(*outs, rtol=0, atol=8 * torch.finfo(dtype).eps)
    for got, want in zip(*grads):
        assert (got - want).norm() < 8 * torch.finfo(dtype).eps * want.norm().clamp(min=1.)


def test_transformations_are_refused():
    x = torch.randn(1, 20, 8)
    transformed = torch.func.grad(lambda x: run(randomised(), x, 4).sum())
    with use_impl('triton'), pytest.raises(SettingError, match='does not support transformations of torch.func'):
        transformed(x)


def test_second_derivatives_are_refused():
    attention, x = randomised(), torch.randn(1, 20, 8, requires_grad=True)
    with use_impl('triton'):
        first, = torch.autograd.grad(run(attention, x, 4).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()
