"""Telling whether the code is run or traced."""
from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_pos_det.ops import runtime


@pytest.fixture(params=['this torch', 'torch 2.1'])
def module(request, monkeypatch):
    if request.param == 'this torch':
        return runtime
    spec = importlib.util.spec_from_file_location('swin_pos_det.ops.runtime_of_torch_2_1', runtime.__file__)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, found)  # where torch.compile looks
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'compiler', SimpleNamespace())  # of which torch 2.1 has less
        spec.loader.exec_module(found)
    return found


def test_nothing_is_traced_by_default(module):
    assert not module.is_tracing() and not module.is_exporting() and module.fake_mode() is None


def test_torch_jit_traces_for_another_run_time(module):
    seen = []
    torch.jit.trace(lambda x: seen.append((module.is_tracing(), module.is_exporting())) or x + 1, torch.zeros(1),
                    check_trace=False)
    assert seen == [(True, True)]


def test_torch_compile_traces(module):
    compiled = torch.compile(lambda x: x + 1 if module.is_tracing() else x - 1, backend='eager', fullgraph=True)
    assert compiled(torch.zeros(1)) == 1


def test_the_fake_mode_is_found_under_others(module):
    with FakeTensorMode() as outer:
        assert module.fake_mode() is outer
        with FakeTensorMode() as inner:
            assert module.fake_mode() in (outer, inner)
    assert module.fake_mode() is None


def test_tensors_made_under_a_transformation_are_not_cached():
    made = []

    @runtime.tensor_cache(4)
    def make(length):
        made.append(torch.arange(length))
        return made[-1]

    def call(x):
        return x + make(3)

    torch.func.functionalize(call)(torch.zeros(3))
    assert make.cache_info().currsize == 0
    assert make(3).data_ptr() and make(3) is made[-1] and len(made) == 2
    torch.func.vmap(call)(torch.zeros(2, 3))
    assert make(3) is made[1]
