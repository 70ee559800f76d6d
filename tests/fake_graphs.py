"""Graphs without a GPU: operators are recorded with their tensors, and run again on the same memory."""
from __future__ import annotations

from typing import Any, Callable, Hashable, List, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class _Recorder(TorchDispatchMode):

    def __init__(self) -> None:
        super().__init__()
        self.calls: List[Tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


class FakeGraph:
    """Like a CUDA graph it does not run Python: a replay reads the current values of all tensors that the call read."""

    def __init__(self, device: FakeDevice) -> None:
        self.device, self.calls = device, []

    def capture(self, run: Callable[[], Any]) -> Any:
        if self.device.refuses:
            raise RuntimeError('operation not permitted when stream is capturing')
        with _Recorder() as recorder:
            result = run()
        self.calls = recorder.calls
        self.device.captured += 1
        return result

    def replay(self) -> None:
        self.device.replayed += 1
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_flatten(out)[0], tree_flatten(func(*args, **kwargs))[0]):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class FakeDevice:
    """Counts captures and replays. Tests may set ``stream_name``, ``refuses`` and ``graphs``."""

    def __init__(self) -> None:
        self.captured = self.replayed = self.waits = 0
        self.stream_name, self.refuses, self.graphs = 'main', False, True

    def supports(self, x: Tensor) -> bool:
        return self.graphs

    def stream(self, x: Tensor) -> Hashable:
        return self.stream_name

    def new_graph(self, x: Tensor) -> FakeGraph:
        return FakeGraph(self)

    def synchronize(self) -> None:
        self.waits += 1

    @property
    def counts(self) -> Tuple[int, int]:
        """Graphs captured, and replays."""
        return self.captured, self.replayed


def images(*size: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Random images."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
