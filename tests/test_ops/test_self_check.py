"""The check of an implementation on the machine that is to run it, with stand-ins for the fused kernel."""
from __future__ import annotations

from types import ModuleType
from typing import Any, Callable, Tuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from swin_pos_det.layers import window_plan
from swin_pos_det.ops import reference, sdpa, self_check
from swin_pos_det.ops import window_attention as door
from swin_pos_det.ops.position_bias import PositionBias
from swin_pos_det.ops.triton import support

CPU = torch.device('cpu')
RIGHT = sdpa.attention


def stand_in(attention: Callable) -> ModuleType:
    """Make an implementation that counts its calls."""
    module = ModuleType('swin_pos_det.ops.fused')
    module.calls = 0

    def counted(*arguments: Any) -> torch.Tensor:
        module.calls += 1
        return attention(*arguments)

    module.attention = counted
    return module


def call(window=(3, 3), dtype=torch.bfloat16, hide=False, valid=None, table=True) -> Tuple[Any, ...]:
    plan = window_plan(1, (7, 8), window, (1, 1), CPU, hide, valid)
    bias = PositionBias(window, table=torch.zeros((2 * window[0] - 1) * (2 * window[1] - 1), 2)) if table else None
    return torch.zeros(1, 56, 3 * 16, dtype=dtype), plan, bias, 2, .4, torch.zeros(48)


@pytest.fixture(autouse=True)
def nothing_checked(monkeypatch):
    monkeypatch.setattr(self_check, '_passed', {})


def test_calls_that_are_alike_are_checked_once():
    fused = stand_in(RIGHT)
    assert self_check.passes(fused, reference, *call()) and fused.calls == 1
    assert self_check.passes(fused, reference, *call(window=(2, 5))) and fused.calls == 1, 'also 9 to 16 tokens'
    for number, other in enumerate([dict(window=(5, 5)), dict(dtype=torch.float16), dict(hide=True),
                                    dict(hide=True, valid=[(5, 8)]), dict(table=False)]):
        assert self_check.passes(fused, reference, *call(**other)), other
        assert fused.calls == number + 2, other
    with torch.no_grad():
        assert self_check.passes(fused, reference, *call()) and fused.calls == 7


@pytest.mark.parametrize('window', [(1, 1), (1, 7), (2, 2), (4, 4), (7, 7), (7, 12), (16, 16)], ids=str)
@pytest.mark.parametrize('padding', [{}, dict(hide=True), dict(hide=True, valid=[(5, 8)])], ids=str)
def test_rounding_passes_at_every_window(window, padding):
    for dtype in (torch.float16, torch.bfloat16):
        assert self_check.passes(stand_in(RIGHT), reference, *call(window, dtype, **padding))


def wrong_padding(qkv: torch.Tensor, plan: Any, bias: Any, num_heads: int, scale: float, pad: torch.Tensor,
                  *rest: Any) -> torch.Tensor:
    return RIGHT(qkv, plan, bias, num_heads, scale, pad * 2, *rest)


@pytest.mark.parametrize('window', [(3, 3), (4, 4), (7, 7), (12, 12)], ids=str)
def test_padding_takes_part(window):
    with pytest.warns(UserWarning, match='wrong results'), torch.no_grad():
        assert not self_check.passes(stand_in(wrong_padding), reference, *call(window))


def wrong_gradient(qkv: torch.Tensor, *rest: Any) -> torch.Tensor:
    return RIGHT(qkv.detach() + 2 * (qkv - qkv.detach()), *rest)


def failing(*_: Any) -> torch.Tensor:
    raise RuntimeError('Failed to find C compiler.\nPlease specify one')


@pytest.mark.parametrize(('attention', 'message'), [
    (lambda *call: RIGHT(*call) * 1.2, r'wrong results here: they differ by 0\.2'),
    (lambda *call: RIGHT(*call) * torch.nan, 'wrong results here: they differ by nan'),
    (wrong_gradient, 'wrong results here: they differ by 1'),
    (failing, 'fails here with RuntimeError: Failed to find C compiler.$'),
], ids=['wrong', 'nan', 'wrong gradient', 'failing'])
def test_one_that_does_not_work_is_done_without_and_warns_once(recwarn, attention, message):
    fused = stand_in(attention)
    for _ in range(2):
        assert not self_check.passes(fused, reference, *call())
    assert fused.calls == 1
    assert len(recwarn) == 1 and recwarn[0].category is UserWarning
    with pytest.warns(UserWarning, match=f"on cpu does without the implementation 'fused', which .*{message}"):
        self_check.passes(fused, reference, *call(window=(5, 5)))


def test_full_memory_is_no_verdict():
    def full(*_: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError('full')

    with pytest.raises(torch.cuda.OutOfMemoryError):
        self_check.passes(stand_in(full), reference, *call())
    assert self_check.passes(stand_in(RIGHT), reference, *call())


@pytest.mark.parametrize('question', ['is_tracing', 'is_capturing', 'has_active_torch_mode'])
def test_calls_that_may_not_wait_are_checked_later(monkeypatch, question):
    fused = stand_in(failing)
    with monkeypatch.context() as patch:
        patch.setattr(self_check, question, lambda: True)
        assert self_check.passes(fused, reference, *call()) and fused.calls == 0
    with pytest.warns(UserWarning, match='Failed to find'):
        assert not self_check.passes(fused, reference, *call())


def test_fake_tensors_are_not_checked():
    with FakeTensorMode():
        qkv = torch.empty(1, 56, 48)
    assert self_check.passes(stand_in(failing), reference, qkv, *call()[1:])


def test_surroundings_do_not_matter():
    """Neither autocast, nor inference mode, nor the seed, nor what recomputation counts."""
    state = torch.get_rng_state()
    with torch.autocast('cpu', torch.bfloat16), torch.inference_mode():
        assert self_check.passes(stand_in(RIGHT), reference, *call())
    assert torch.equal(torch.get_rng_state(), state)

    def block(x: torch.Tensor) -> torch.Tensor:
        assert self_check.passes(stand_in(RIGHT), reference, *call())
        return x.sin().exp()

    x = torch.randn(3, requires_grad=True)
    checkpoint(block, x, use_reentrant=False).sum().backward()
    assert torch.allclose(x.grad, x.cos() * x.sin().exp())


def test_the_choice(monkeypatch):
    monkeypatch.setattr(support, 'unsupported_gpu', lambda index: None)
    with FakeTensorMode():
        qkv = torch.empty(1, 56, 48, device='cuda', dtype=torch.float16)
    arguments = qkv, *call()[1:], None, 0.
    assert door.choose(*arguments) == 'triton'
    monkeypatch.setattr(self_check, 'passes', lambda *_: False)
    assert door.choose(*arguments) == 'sdpa'
