"""Mixed precision on the CPU: bfloat16 where it helps, float32 where it must."""
from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from swin_pos_det.engine import CPUAmpOptimWrapper, amp, use_mixed_precision


class Detector(nn.Module):
    """Records the dtypes its parts see."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.neck = nn.Sequential(nn.Linear(4, 4))
        self.head = nn.Linear(4, 1)
        self.seen = {}
        for name, module in dict(inner=self.backbone[0], neck=self.neck[0], head=self.head).items():
            module.register_forward_hook(lambda _, inputs, output, name=name: self.seen.update({name: output.dtype}))

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def autocast_is_on():
    return (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16


def make_wrapper(model, **kwargs):
    return CPUAmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.05), **kwargs)


def test_backbone_in_bfloat16_and_head_in_float32():
    model = Detector()
    wrapper = make_wrapper(model, loss_scale='dynamic')
    with wrapper.optim_context(model):
        model(torch.ones(2, 4))
    assert model.seen == dict(inner=torch.bfloat16, neck=torch.bfloat16, head=torch.float32)
    model(torch.ones(2, 4))
    assert set(model.seen.values()) == {torch.float32}, 'outside the context nothing is cast'


def test_equal_to_autocast_around_the_parts():
    model, x = Detector(), torch.randn(8, 4, requires_grad=True)
    with make_wrapper(model).optim_context(model):
        out = model(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.backbone(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.neck(features.float())
    want = model.head(features.float())
    assert out.dtype == torch.float32 and torch.equal(out, want)
    assert torch.equal(*(torch.autograd.grad(value.sum(), x)[0] for value in (out, want)))


def test_forwards_are_not_replaced_and_hooks_are_removed():
    model, seen = Detector(), []
    model.backbone.register_forward_pre_hook(lambda *_: seen.append(autocast_is_on()))
    model.backbone.register_forward_hook(lambda _, inputs, output: seen.append(
        (output.dtype, autocast_is_on())))
    for _ in range(3):
        with make_wrapper(model).optim_context(model):
            assert 'forward' not in vars(model.backbone) and 'forward' not in vars(model.neck)
            model(torch.ones(2, 4))
    assert seen == [False, (torch.float32, False)] * 3, "other people's hooks see what they see without the wrapper"
    assert len(model.backbone._forward_hooks) == len(model.backbone._forward_pre_hooks) == 1
    assert not model.neck._forward_hooks and not model.neck._forward_pre_hooks


def test_an_error_in_the_forward_leaves_no_autocast_behind():
    model = Detector()
    with make_wrapper(model).optim_context(model):
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 5))
        assert not autocast_is_on()
    model(torch.ones(2, 4))
    assert set(model.seen.values()) == {torch.float32}


def test_it_trains():
    model = Detector()
    wrapper = make_wrapper(model)
    x = torch.randn(16, 4)
    target = x.sum(1, keepdim=True)
    losses = []
    for _ in range(60):
        with wrapper.optim_context(model):
            loss = (model(x) - target).pow(2).mean()
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_float16_is_refused_on_the_cpu():
    model = Detector()
    with pytest.raises(ValueError, match="'bfloat16' on the CPU, got 'float16'"):
        make_wrapper(model, dtype='float16')


@pytest.mark.parametrize('has_gpu', [False, True])
@pytest.mark.parametrize('requested', [False, True])
@pytest.mark.parametrize('configured', ['OptimWrapper', 'AmpOptimWrapper'])
def test_which_wrapper_is_used(monkeypatch, has_gpu, requested, configured):
    monkeypatch.setattr(amp, 'has_accelerator', lambda: has_gpu)
    cfg = Config(dict(optim_wrapper=dict(type=configured, optimizer=dict(type='SGD', lr=0.1))))
    use_mixed_precision(cfg, requested)
    wants_amp = requested or configured == 'AmpOptimWrapper'
    expected = configured if not wants_amp else 'AmpOptimWrapper' if has_gpu else 'CPUAmpOptimWrapper'
    assert cfg.optim_wrapper.type == expected
    if not has_gpu:
        OPTIM_WRAPPERS.build(dict(type=expected, optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)))
    assert cfg.optim_wrapper.get('loss_scale') == ('dynamic' if requested and has_gpu else None)
