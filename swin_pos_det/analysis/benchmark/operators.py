"""Count what a step asks of the device: operators that are launched, and points at which the host waits for them."""
from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that only allocate or describe memory; views are found by their schema.
_NO_KERNEL = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', '_unsafe_view', 'lift_fresh',
              'resize_', 'set_', 'is_same_size', '_local_scalar_dense', '_reshape_alias'}
# Their results have a size or a value that the host has to know.
_WAIT = {'_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive',
         'is_nonzero', 'equal', 'repeat_interleave'}
_INDEX = {'index', 'index_put', 'index_put_', '_index_put_impl_'}


def waits(name: str, args: Any) -> bool:
    """Return whether an operator makes the host wait for a GPU, as indexing with a mask does (it counts non-zeros)."""
    if name not in _INDEX:
        return name in _WAIT
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


class _ToHost(TorchFunctionMode):
    """Tell of copies to the host, which do nothing on a CPU and are no operator there."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.cpu, Tensor.tolist):
            self._tell()
        return function(*args, **(kwargs or {}))


class OperatorCount(TorchDispatchMode):
    """Count operators and waits by the part of a step in which they occur.

    Composite operators count as what they are made of, operators of compiled extensions do not count.

    Args:
        on_host: tensors of one element that are on the host whatever the device is: to read them is no wait.

    Attributes:
        operators: number of operators that would launch a kernel, for each part.
        waits: how often the host would wait for the device, for each part.
    """

    def __init__(self, on_host: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._on_host = {tensor.data_ptr() for tensor in on_host}
        self.operators: Counter = Counter()
        self.waits: Counter = Counter()
        self._parts = ['other']

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens within as ``name``."""
        self._parts.append(name)
        try:
            yield
        finally:
            self._parts.pop()

    def _wait(self) -> None:
        self.waits[self._parts[-1]] += 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if waits(name, args) and not (name == '_local_scalar_dense' and args[0].data_ptr() in self._on_host):
            self._wait()
        if name not in _NO_KERNEL and not function.is_view:
            self.operators[self._parts[-1]] += 1
        return function(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count within."""
        with self, _ToHost(self._wait):
            yield
