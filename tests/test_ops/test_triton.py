"""When the fused kernel is chosen."""
from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from swin_pos_det.errors import SettingError
from swin_pos_det.layers import window_plan
from swin_pos_det.ops import use_impl
from swin_pos_det.ops import window_attention as door
from swin_pos_det.ops.position_bias import PositionBias
from swin_pos_det.ops.triton import support
from tests.fake_cuda import CUDA, fake_cuda, fake_model, mode_of, without_device_guards

pytest.importorskip('triton', reason='triton is not installed (requirements/triton.txt)')


def call(size=(9, 10), window=(7, 7), shift=(3, 3), heads=2, channels=16, device='cuda', dtype=torch.float16,
         **changed: Any) -> dict:
    """Make the door's arguments with fake tensors, by default such that the kernel takes them."""
    plan = window_plan(1, size, window, shift, torch.device('cpu'))
    with FakeTensorMode():
        qkv = torch.empty(1, size[0] * size[1], 3 * heads * channels, device=device, dtype=dtype)
        table = torch.empty((2 * window[0] - 1) * (2 * window[1] - 1), heads, device=device)
    return dict(dict(qkv=qkv, plan=plan, bias=PositionBias(window, table=table), num_heads=heads, scale=1., pad=None,
                     rotate=None, dropout=0.), **changed)


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU that can run the kernel."""
    monkeypatch.setattr(support, 'unsupported_gpu', lambda index: None)


def test_it_is_chosen_on_cuda(gpu):
    for settings in ({}, dict(dtype=torch.bfloat16), dict(window=(16, 16), shift=(8, 8)), dict(channels=32),
                     dict(bias=None)):
        assert door.choose(**call(**settings)) == 'triton', settings


@pytest.mark.parametrize(('settings', 'reason'), [
    (dict(dropout=.1), 'dropout on attention weights'),
    (dict(rotate=lambda q, k: (q, k)), 'queries and keys that are rotated'),
    (dict(bias=PositionBias((7, 7), pairs=torch.zeros(2, 49, 49))), 'a position bias that is not a table'),
    (dict(window=(16, 17)), 'windows of more than 256 tokens, such as 16x17'),
    (dict(channels=40), 'more than 32 channels in a head, such as 40'),
    (dict(dtype=torch.float32), 'float32, only float16 and bfloat16'),
    (dict(dtype=torch.float64), 'float64, only float16 and bfloat16'),
    (dict(size=(4096, 4096), heads=4, channels=32), 'maps of 16777216 tokens of 128 channels'),
], ids=lambda value: None if isinstance(value, dict) else value)
def test_arguments_that_it_does_not_support(gpu, settings, reason):
    arguments = call(**settings)
    assert door.choose(**arguments) == 'sdpa'
    with use_impl('triton'), pytest.raises(SettingError, match=f"'triton' was requested, .* not support {reason}"):
        door.window_attention(**arguments)


@pytest.mark.parametrize(('patches', 'reason'), [
    ({'HAS_TRITON': False}, r'Python environments without triton \(pip install triton\)'),
    ({'HAS_LIBRARY': False}, 'torch .*, only torch 2.4 and newer'),
    ({'is_exporting': lambda: True}, 'graphs for other runtimes'),
    ({'is_transformed': lambda: True}, 'transformations of torch.func'),
    ({'unsupported_gpu': lambda index: 'old GPUs'}, 'old GPUs'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_circumstances_that_it_does_not_support(gpu, monkeypatch, patches, reason):
    for name, value in patches.items():
        monkeypatch.setattr(support, name, value)
    assert door.choose(**call()) == 'sdpa'
    with use_impl('triton'), pytest.raises(SettingError, match=reason):
        door.window_attention(**call())


def test_tensors_on_a_cpu():
    arguments = call(device='cpu')
    with use_impl('triton'), pytest.raises(SettingError, match='tensors on cpu, only on CUDA devices'):
        door.window_attention(**arguments)


@pytest.mark.parametrize(('capability', 'hip', 'reason'), [
    ((7, 5), None, 'GPUs older than sm_80: this one is sm_75'), ((8, 0), None, None), ((9, 0), None, None),
    ((12, 0), None, None), ((9, 4), '6.2', 'AMD GPUs')])
def test_gpus(monkeypatch, capability, hip, reason):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda index: capability)
    monkeypatch.setattr(torch.version, 'hip', hip)
    support._unsupported_gpu.cache_clear()
    try:
        assert support.unsupported_gpu(None) == support.unsupported_gpu(0) == reason
    finally:
        support._unsupported_gpu.cache_clear()


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert support.unsupported_gpu(0) == 'CUDA tensors without a CUDA device'


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@fake_cuda
@pytest.mark.parametrize('settings', [dict(), dict(padding='mask'), dict(position='log_cpb', attention='cosine')],
                         ids=str)
def test_every_block_of_a_backbone_on_cuda_uses_it(gpu, settings):
    model = fake_model(torch.float16, **settings)
    with without_device_guards(), mode_of(model), torch.no_grad(), Operators() as operators:
        outs = model(torch.empty(2, 3, 61, 90, device=CUDA, dtype=torch.float16))
    assert {(out.device, out.dtype) for out in outs} == {(CUDA, torch.float16)}
    assert operators.seen['window_attention'] == sum(len(stage.blocks) for stage in model.stages)
    assert not [name for name in operators.seen if 'scaled_dot_product' in name or 'index_select' in name]
