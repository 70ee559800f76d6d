"""A CUDA device that need not be there: fake tensors take the code's CUDA branches, and hold no data.

Tests marked with :func:`fake_cuda` run in a process of their own, by tests/test_ops/test_fake_cuda.py: a torch for CPUs
needs `Tensor.__getitem__` replaced for them, after which `Tensor.new_tensor` no longer takes lists of tensors.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Callable, Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO

CUDA = torch.device('cuda', 0)
PROCESS = 'SWIN_POS_DET_TEST_FAKE_CUDA'  # set in the process of these tests


def makes_fake_cuda() -> bool:
    """Return whether this torch has fake CUDA tensors: before 2.4 or so they want a driver."""
    try:
        with without_device_guards(), FakeTensorMode():
            return bool(torch.ones(2, 2, device=CUDA)[:, 0].contiguous().add(1).is_cuda)
    except (RuntimeError, AssertionError):
        return False


def fake_cuda(test: Callable) -> Callable:
    """Mark a test that needs fake CUDA tensors."""
    reason = 'runs in a process of its own: tests/test_ops/test_fake_cuda.py'
    if PROCESS in os.environ:
        reason = '' if makes_fake_cuda() else 'this torch has no fake CUDA tensors without a GPU'
    return pytest.mark.fake_cuda(pytest.mark.skipif(bool(reason), reason=reason)(test))


@contextmanager
def without_device_guards() -> Iterator[None]:
    """Index without a switch of the current device, which a torch for CPUs does not have."""
    if torch.backends.cuda.is_built():
        yield
        return
    with mock.patch.object(Tensor, '__getitem__', _index), mock.patch.object(Tensor, 'contiguous', _contiguous):
        yield


def _index(tensor: Tensor, index: Any) -> Tensor:
    index = index if isinstance(index, tuple) else (index, )
    if any(part is Ellipsis for part in index):
        at = next(place for place, part in enumerate(index) if part is Ellipsis)
        whole = tensor.dim() - sum(part is not None and part is not Ellipsis for part in index)
        index = (*index[:at], *[slice(None)] * whole, *index[at + 1:])
    dim, tensors = 0, []
    for part in index:
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = torch.ops.aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
        elif isinstance(part, Tensor):
            tensors += [None] * (dim - len(tensors)) + [part]
        else:
            tensor = tensor.select(dim, part)
            continue
        dim += 1
    return torch.ops.aten.index.Tensor(tensor, tensors) if tensors else tensor


def _contiguous(tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    return tensor if tensor.is_contiguous(memory_format=memory_format) else tensor.clone(memory_format=memory_format)


def fake_model(dtype: torch.dtype = torch.float32, **settings: Any) -> SwinPosTransformer:
    """Build a backbone on a CUDA device that need not be there."""
    model = SwinPosTransformer(**dict(MICRO, **settings))
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=CUDA)))
    return model


def mode_of(model: nn.Module) -> FakeTensorMode:
    """Return the mode that the model's tensors were made under."""
    return next(model.parameters()).fake_mode
