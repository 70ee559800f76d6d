"""Every implementation of attention, and the CPU's inference, against the slow reference: outputs and gradients."""
from __future__ import annotations

from contextlib import contextmanager
from itertools import product
from typing import Any, Iterator, List

import pytest
import torch
from torch import Tensor

from swin_pos_det.errors import SettingError
from swin_pos_det.layers import WindowAttention, window_plan
from swin_pos_det.models.padding import mask_padding
from swin_pos_det.ops import IMPLEMENTATIONS, cpu_training, use_impl
from swin_pos_det.ops import window_attention as door
from swin_pos_det.ops.cpu_inference import attention as cpu_attention
from swin_pos_det.ops.cpu_inference.attention import attend_without_padding, can_drop_padding
from swin_pos_det.ops.heads import join_heads, window_heads
from swin_pos_det.ops.triton.support import INTERPRETED
from tests.reference_attention import reference_of

CPU_INFERENCE = 'cpu_inference'
WITHOUT_GRADIENTS = (CPU_INFERENCE, )

SECOND = dict(attention='cosine', position='log_cpb', key_bias=False)  # Swin V2
SCHEMES = {
    'none': dict(position='none'),
    'relative': dict(),
    'relative, resampled': dict(table_window_size=(3, 2)),
    'relative_only': dict(position='relative_only'),
    'linear_cpb': dict(position='linear_cpb'),
    'log_cpb, cosine': SECOND,
    'rope_axial': dict(position='rope_axial'),
    'rope_mixed, cosine': dict(position='rope_mixed', attention='cosine'),
    'relative+rope_mixed': dict(position='relative+rope_mixed', qkv_bias=False),
}
# Windows from 1 to 7 and rectangular, odd maps, shifts along one axis, maps smaller than a window.
SHAPES = [
    # batch, size, window, shift
    (1, (4, 4), (2, 2), (0, 0)),
    (2, (5, 7), (3, 3), (1, 1)),
    (1, (6, 5), (2, 4), (1, 0)),
    (2, (4, 9), (3, 4), (0, 2)),
    (1, (3, 5), (1, 1), (0, 0)),
    (1, (3, 2), (7, 7), (3, 3)),
]
DTYPES = {torch.float32: 5e-5, torch.float64: 1e-9}
PADDINGS = ['attend', 'mask', "mask the batch's too"]
CASES = list(product(SCHEMES, SHAPES, PADDINGS, DTYPES))
if INTERPRETED:  # a process of its own, which runs some cases for the fused kernel: every pair of two settings occurs
    schemes = ['none', 'relative, resampled', 'log_cpb, cosine']
    CASES = [(schemes[(shape + padding) % 3], SHAPES[1::2][shape], PADDINGS[padding], torch.float64)
             for shape, padding in product(range(3), range(3))]


def randomised(**settings: Any) -> WindowAttention:
    """Return an attention module whose every parameter matters."""
    attention = WindowAttention(8, 2, **{'table_window_size': (3, 3), **settings})
    for name, parameter in attention.named_parameters():
        if not name.startswith(('qkv.weight', 'proj.weight', 'rope')):
            torch.nn.init.normal_(parameter, std=.5)
    return attention


@contextmanager
def implementation(name: str) -> Iterator[None]:
    with use_impl(None if name == CPU_INFERENCE else name), torch.set_grad_enabled(name not in WITHOUT_GRADIENTS):
        yield


def run(name: str, attention: WindowAttention, x: Tensor, plan: Any) -> Tensor:
    if name == CPU_INFERENCE:
        return attention.proj(attend_without_padding(attention, x.flatten(0, 1), None, plan).view_as(x))
    return attention(x, plan)


def case(shape: Any, padding: str, dtype: torch.dtype = torch.float32) -> Any:
    batch, size, window, shift = shape
    valid = [(max(1, size[0] - image), max(1, size[1] - 2)) for image in range(batch)] if 'batch' in padding else None
    x = torch.randn(batch, size[0] * size[1], 8, dtype=dtype, requires_grad=True)
    return x, window_plan(batch, size, window, shift, x.device, padding != 'attend', valid)


def usable(attention: WindowAttention, x: Tensor, plan: Any) -> List[str]:
    """Return the implementations that take these arguments, torch's own among them."""
    inputs = attention.inputs(x, plan)
    names = [name for name, implementation in IMPLEMENTATIONS.items()
             if not hasattr(implementation, 'unsupported') or implementation.unsupported(**inputs, dropout=0.) is None]
    assert {'reference', 'sdpa', 'cpu_training'} <= set(names)
    # Rotated padding is not all alike, so blocks fall back to the door there.
    return names + [CPU_INFERENCE] * can_drop_padding(attention, plan)


def assert_all_equal(attention: WindowAttention, x: Tensor, plan: Any, tolerance: float) -> None:
    """Assert that outputs and gradients of every implementation equal the reference."""
    # The backbone zeroes hidden tokens. Their logits, about -10000, have few digits left in float32.
    real = mask_padding(torch.ones_like(x), plan.spec.valid, plan.spec.size)
    want, inputs = reference_of(attention, x, plan.spec) * real, dict(attention.named_parameters(), x=x)
    weights, want_grads = torch.randn_like(x), {}
    found = torch.autograd.grad((want * weights).sum(), inputs.values(), allow_unused=True)
    for key, grad in zip(inputs, found):
        want_grads[key] = torch.zeros_like(inputs[key]) if grad is None else grad
    for name in usable(attention, x, plan):
        with implementation(name):
            got = run(name, attention, x, plan) * real
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance, msg=lambda text, name=name: f'{name}: {text}')
        if name in WITHOUT_GRADIENTS:
            continue
        grads = torch.autograd.grad((got * weights).sum(), inputs.values())
        for key, grad in zip(inputs, grads):
            error, size = (grad - want_grads[key]).norm(), want_grads[key].norm()
            assert error <= tolerance * size.clamp(min=1.), f'{name}, {key}: {error:.2e} of {size:.2e}'


@pytest.mark.parametrize(('scheme', 'shape', 'padding', 'dtype'), CASES, ids=str)
def test_every_implementation_equals_the_reference(scheme, shape, padding, dtype):
    attention = randomised(**SCHEMES[scheme]).to(dtype)
    assert_all_equal(attention, *case(shape, padding, dtype), DTYPES[dtype])


@pytest.mark.parametrize('padding', PADDINGS[:2])
@pytest.mark.parametrize('window', [(5, 9), (12, 12)], ids=str)
@pytest.mark.parametrize('settings', [dict(), SECOND], ids=['V1', 'V2'])
def test_large_windows(settings, window, padding):
    assert_all_equal(randomised(**settings), *case((1, (13, 11), window, (2, 6)), padding), 5e-5)


@pytest.mark.parametrize('scores', [1, 600])
@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('padding', PADDINGS[:2])
def test_exact_in_float64(monkeypatch, padding, qkv_bias, scores):
    """However many windows are computed at once."""
    for module in (cpu_training, cpu_attention):
        monkeypatch.setattr(module, 'MAX_SCORES', scores)
    case_of = case((2, (9, 13), (3, 4), (1, 2)), padding, torch.float64)
    assert_all_equal(randomised(qkv_bias=qkv_bias).double(), *case_of, 1e-12)


@pytest.mark.parametrize('settings', [dict(), SECOND], ids=['V1', 'V2'])
def test_bfloat16_under_autocast(settings):
    x, plan = case((2, (16, 15), (4, 4), (2, 2)), 'attend')
    attention = randomised(**settings)
    want, inputs = reference_of(attention, x, plan.spec), dict(attention.named_parameters(), x=x)
    want_grads = torch.autograd.grad(want.square().sum(), inputs.values())
    for name in usable(attention, x, plan):
        with implementation(name), torch.autocast('cpu', torch.bfloat16):
            got = run(name, attention, x, plan)
        assert (got.float() - want).norm() < 0.02 * want.norm(), name
        if name in WITHOUT_GRADIENTS:
            continue
        grads = torch.autograd.grad(got.float().square().sum(), inputs.values())
        for key, grad, want_grad in zip(inputs, grads, want_grads):
            assert (grad - want_grad).norm() < 0.05 * want_grad.norm().clamp(min=.1), f'{name}, {key}'


def test_an_implementation_asked_for_by_name_never_falls_back():
    x, plan = case(SHAPES[1], 'attend')
    attention = randomised(attn_drop_rate=.5)
    with use_impl('cpu_training'), pytest.raises(SettingError, match="'cpu_training' was requested, .* dropout"):
        attention(x, plan)
    traced = pytest.raises(SettingError, match='traced graphs')
    with use_impl('cpu_training'), torch.no_grad(), traced:
        torch.jit.trace(lambda x: attention.eval().requires_grad_(False)(x, plan), x.detach())


def test_unknown_names_are_refused(monkeypatch):
    message = r"must be one of \['cpu_training', .*'triton'\], got 'flash'"
    with pytest.raises(SettingError, match=message), use_impl('flash'):
        pass
    monkeypatch.setattr(door, '_requested', 'flash')  # as the environment variable does
    with pytest.raises(SettingError, match=r"SWIN_POS_DET_ATTENTION\) must be one of .* got 'flash'"):
        randomised()(*case(SHAPES[0], 'attend'))


def chosen(attention: WindowAttention, x: Tensor, plan: Any, dropout: float = 0.) -> str:
    inputs = attention.inputs(x, plan)
    return door.choose(**inputs, dropout=dropout)


def test_the_choice():
    x, plan = case((1, (32, 32), (4, 4), (2, 2)), 'attend')
    attention = randomised()
    assert chosen(attention, x, plan) == 'cpu_training'
    assert chosen(attention, x, plan, dropout=.1) == 'sdpa'
    assert chosen(randomised(position='none'), x, plan) == 'sdpa', 'no learned bias'
    with torch.no_grad():
        assert chosen(attention, x, plan) == 'sdpa'
        meta = case((1, (8, 8), (4, 4), (0, 0)), 'attend')[0].to('meta')
        plan = window_plan(1, (8, 8), (4, 4), (0, 0), meta.device)
        assert chosen(randomised().to('meta'), meta, plan) == 'sdpa'


def test_requests_end_with_their_context():
    with use_impl('reference'):
        with use_impl(None):
            assert door.requested_impl() is None
        assert door.requested_impl() == 'reference'
    assert door.requested_impl() is None


def test_attention_weights_are_those_that_the_output_is_made_of():
    x, plan = case((2, (5, 7), (3, 3), (1, 1)), 'attend')
    attention = randomised()
    weights, inputs = attention.weights(x, plan), attention.inputs(x, plan)
    assert weights.shape == (12, 2, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(12, 2, 9))
    _, _, v = window_heads(inputs['qkv'], plan, 2, inputs['pad'], None)
    torch.testing.assert_close(attention.proj(join_heads(weights @ v, plan, inputs['qkv'])), attention(x, plan))


def test_training_on_a_cpu_keeps_no_scores():
    x, plan = case((1, (64, 64), (8, 8), (0, 0)), 'attend')
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()) or saved, lambda own: own):
        randomised()(x, plan)
    assert kept and max(kept) < 64 * 64 * 64, 'windows x tokens x tokens'


def test_dropout_in_training_only():
    attention = randomised(attn_drop_rate=.5)
    x, plan = case(SHAPES[1], 'attend')
    for name in ('sdpa', 'reference'):
        with use_impl(name):
            assert not torch.equal(attention.train()(x, plan), attention(x, plan))
            assert torch.equal(attention.eval()(x, plan), attention(x, plan))
