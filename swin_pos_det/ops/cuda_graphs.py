"""CUDA graphs for inference: the kernels of a call are captured once per input size, then replayed with one launch.

A forward of a Swin-T launches hundreds of kernels. With a few images the host needs longer to launch them than the GPU
to run them.
"""
from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Callable, Hashable, NamedTuple, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from .runtime import (
    ModuleState,
    autocast_dtype,
    hold_cached,
    is_capturing,
    is_plain_inference,
    module_state,
    warn,
    without_autocast_cache,
)
from .window_attention import requested_impl

# A graph keeps its input and output in memory; intermediate tensors share one pool.
MAX_GRAPHS = 8
# A key is a few numbers. COCO has some 60 padded sizes.
MAX_SEEN = 1024


class Graph(Protocol):
    """A captured call."""

    def capture(self, run: Callable[[], Any]) -> Any:
        """Record the kernels that ``run`` launches; return its result, whose tensors :meth:`replay` fills."""

    def replay(self) -> None:
        """Run the recorded kernels again, on the same memory."""


class Device(Protocol):
    """The interface of a machine for :class:`GraphedCall`. The tests have one without a GPU."""

    def supports(self, x: Tensor) -> bool:
        """Return whether a call on ``x`` can be captured now."""

    def stream(self, x: Tensor) -> Hashable:
        """Return the stream that a call on ``x`` would run on."""

    def new_graph(self, x: Tensor) -> Graph:
        """Make a graph whose memory comes from the pool of all graphs of this device object."""

    def synchronize(self) -> None:
        """Wait until all replays are done."""


class CudaDevice:
    """CUDA. Graphs may share a pool although they are replayed in any order: outputs stay allocated, the rest is
    written before it is read, and all replays are on one stream."""

    def __init__(self) -> None:
        self._pool: Any = None

    def supports(self, x: Tensor) -> bool:
        return x.is_cuda and not is_capturing()

    def stream(self, x: Tensor) -> Hashable:
        return torch.cuda.current_stream(x.device)

    def new_graph(self, x: Tensor) -> Graph:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return _CudaGraph(x.device, self._pool)

    def synchronize(self) -> None:
        torch.cuda.synchronize()


class _CudaGraph:

    def __init__(self, device: torch.device, pool: Any) -> None:
        self._device, self._pool = device, pool
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, run: Callable[[], Any]) -> Any:
        # After a capture that failed, torch leaves its side stream current. 'thread_local': the thread of a data loader
        # that pins memory meanwhile does not end the capture.
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)), \
                torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode='thread_local'):
            return run()

    def replay(self) -> None:
        self._graph.replay()


class _Captured(NamedTuple):
    """One graph: its input and output, and other tensors that its kernels read, such as plans from caches."""

    graph: Graph
    input: Tensor
    output: Any
    held: Any

    def __call__(self, x: Tensor) -> Any:
        self.input.copy_(x)
        self.graph.replay()
        return tree_map(torch.clone, self.output)  # the next replay writes to the same memory


class GraphedCall:
    """A function of one tensor that is replayed from a CUDA graph if possible, with equal results.

    A size is captured at its second occurrence, so sizes that occur once cost nothing. Of more than
    ``max_graphs`` sizes the least recently used is dropped. The function is called without a graph:

    - on other devices, with gradients, while another graph is made, or under a mode that sees every operator;
    - in training, or if a module has hooks, which a replay does not call;
    - on another stream than that of the first call;
    - if capturing fails, such as when it copies something to the host: this warns once.

    If anything in the modules changes, such as a window, a submodule or the device, all graphs are dropped. Settings of
    torch are not checked, except autocast.

    Args:
        function: called with a tensor (and constants); returns a tensor, or lists, tuples or dicts of tensors. It must
            not depend on changing state other than ``modules``.
        modules: that it calls.
        max_graphs: graphs kept at most, at least 1.
        device: for tests.
    """

    def __init__(self, function: Callable[..., Any], modules: Sequence[nn.Module], max_graphs: int = MAX_GRAPHS,
                 device: Optional[Device] = None) -> None:
        self.function, self.modules, self.max_graphs = function, tuple(modules), max_graphs
        self._device = CudaDevice() if device is None else device
        self._graphs: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._state: Optional[ModuleState] = None
        self._stream: Hashable = None
        self._failed = False
        self._lock = threading.Lock()

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.function, self.modules, self.max_graphs)  # a copy captures its own graphs

    def __len__(self) -> int:
        """Return the number of graphs."""
        return len(self._graphs)

    def __call__(self, x: Tensor, *constants: Hashable) -> Any:
        """Return ``function(x, *constants)``; each set of constants has its own graph."""
        if not self._failed and type(x) is Tensor and is_plain_inference() and self._device.supports(x):
            with self._lock:
                captured = self._find(x, constants)
                if captured is not None:
                    return captured(x)
        return self.function(x, *constants)

    def clear(self) -> None:
        """Drop all graphs."""
        if self._graphs:
            self._device.synchronize()
        self._graphs.clear()
        self._seen.clear()

    def _find(self, x: Tensor, constants: Tuple[Hashable, ...]) -> Optional[_Captured]:
        """Return the graph for an input, capturing it if it is due; None without one."""
        stream, state = self._device.stream(x), module_state(self.modules)
        if state is None or stream != (stream if self._stream is None else self._stream):
            return None
        self._stream = stream
        if not state.equals(self._state):
            self.clear()
            self._state = state
        settings = autocast_dtype(x.device.type), requested_impl()
        key = tuple(x.shape), x.stride(), x.dtype, x.device, constants, settings
        if key in self._graphs:
            self._graphs.move_to_end(key)
        elif self._is_second(key):
            self._capture(x, constants, key)
        return self._graphs.get(key)

    def _is_second(self, key: Hashable) -> bool:
        if key in self._seen:
            del self._seen[key]
            return True
        self._seen[key] = None
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def _capture(self, x: Tensor, constants: Tuple[Hashable, ...], key: Hashable) -> None:
        while len(self._graphs) >= self.max_graphs:
            self._device.synchronize()  # it may be running
            self._graphs.popitem(last=False)
        try:
            with torch.inference_mode(False), torch.no_grad(), without_autocast_cache(), hold_cached() as held:
                static = torch.empty_like(x).copy_(x)
                self.function(static, *constants)  # fills `held`, which the capture reads
                graph = self._device.new_graph(static)
                output = graph.capture(lambda: self.function(static, *constants))
                if not all(isinstance(leaf, Tensor) for leaf in tree_flatten(output)[0]):
                    raise RuntimeError('the result holds something else than tensors')
        except RuntimeError as error:
            self._failed = True
            self.clear()
            warn(f'CUDA graphs are off, since capturing one failed: {error}')
        else:
            self._graphs[key] = _Captured(graph, static, output, held)
