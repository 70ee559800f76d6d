"""How the code is being run: traced, exported, under a mode or autocast, with hooks on its modules.

This is the only file that asks such questions. Everything else calls these functions.
"""
from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache, wraps
from operator import is_
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

if hasattr(torch.compiler, 'is_compiling'):  # torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    from torch._dynamo import is_compiling

Make = TypeVar('Make', bound=Callable[..., Any])

# Graphs

def is_tracing() -> bool:
    """Return whether a graph is being made: sizes may be symbols, and every branch taken is fixed in the graph."""
    return is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def is_exporting() -> bool:
    """Return whether the graph is made for another runtime, which has plain operators only and takes any size."""
    # As torch.compiler.is_exporting (torch 2.7), which Dynamo of torch 2.11 takes as true in any graph.
    return is_tracing() and (not is_compiling() or getattr(torch.compiler, '_is_exporting_flag', False))


def can_break_graph() -> bool:
    """Return whether ``torch.compile`` makes a graph, which may leave a part of the model to eager mode.

    Exports may not; before torch 2.7 they look the same, so nothing is left to eager mode.
    """
    return is_compiling() and getattr(torch.compiler, '_is_exporting_flag', None) is False


def warn(message: str, stacklevel: int = 2) -> bool:
    """Warn, and return True; except while a graph is made, which can hold no warning."""
    if is_tracing():
        return False
    warnings.warn(message, stacklevel=stacklevel + 1)
    return True


# Modes

def fake_mode() -> Optional[Any]:
    """Return the active ``FakeTensorMode``, under which new tensors have no data; None without one."""
    modes = [] if is_tracing() else _get_current_dispatch_mode_stack()
    return next((mode for mode in modes if type(mode).__name__ == 'FakeTensorMode'), None)  # slow to import


def has_active_torch_mode() -> bool:
    """Return whether a mode (fake tensors, FLOP counter) or a ``torch.func`` transformation sees every operator.

    They know torch's own operators, and expect whole windows; under transformations no tensor may be written in place.
    """
    if is_tracing():
        return False
    modes = [mode for mode in _get_current_function_mode_stack() if type(mode).__name__ != 'DeviceContext']
    return bool(modes or _get_current_dispatch_mode_stack()) or is_transformed()


def is_transformed() -> bool:
    """Return whether a ``torch.func`` transformation or forward-mode differentiation is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def is_plain_inference() -> bool:
    """Return whether no gradients are recorded, no graph is made and no mode sees the operators."""
    return not torch.is_grad_enabled() and not is_tracing() and not has_active_torch_mode()


def tensor_cache(maxsize: int) -> Callable[[Make], Make]:
    """Return a bounded cache for functions that make tensors from hashable arguments.

    It is bypassed while a graph is made, under ``torch.func`` transformations, which wrap every new tensor, and while a
    CUDA graph is captured, whose kernels have not run yet; see :func:`hold_cached`. Fake tensors are never found by a
    real forward. Its tensors can be used in training even if they were first needed under ``inference_mode``.
    """
    def decorate(make: Make) -> Make:
        @lru_cache(maxsize=maxsize)
        def cached(mode: Optional[Any], *request: Any) -> Any:
            with torch.inference_mode(False), torch.no_grad():
                return make(*request)

        @wraps(make)
        def find(*request: Any) -> Any:
            if is_tracing() or is_transformed():
                return make(*request)
            held = _held.get()
            if held is not None and (make, request) in held:
                return held[make, request]
            found = make(*request) if is_capturing() else cached(fake_mode(), *request)
            if held is not None:
                held[make, request] = found
            return found

        find.cache_clear, find.cache_info = cached.cache_clear, cached.cache_info
        return find
    return decorate


def is_capturing() -> bool:
    """Return whether a CUDA graph is captured: kernels are recorded, and have not run yet."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


_held: ContextVar[Optional[Dict[Any, Any]]] = ContextVar('_held', default=None)


@contextmanager
def hold_cached() -> Iterator[Dict[Any, Any]]:
    """Keep what :func:`tensor_cache` hands out, and hand out the same again while a CUDA graph is captured.

    A graph reads these tensors in every replay, so they must live as long as the graph, even if a cache drops
    them. The code that captures a graph first runs the function once within this context, so that all of them exist.
    """
    held: Dict[Any, Any] = {}
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device without waiting for what the device still has to do."""
    if device.type != 'cuda' or fake_mode() is not None:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


# Precision

# Devices without autocast; asked to switch it off there, torch raises. MPS has it since torch 2.5.
_WITHOUT_AUTOCAST = {'meta', *(() if hasattr(torch.amp, 'is_autocast_available')
                               and torch.amp.is_autocast_available('mps') else ('mps', ))}


def without_autocast(like: Tensor) -> ContextManager:
    """Return a context in which operators on the tensor's device keep the precision of their inputs."""
    kind = like.device.type
    return nullcontext() if kind in _WITHOUT_AUTOCAST else torch.autocast(kind, enabled=False)


def autocast_dtype(kind: str) -> Optional[torch.dtype]:
    """Return what autocast casts matrix products to on a kind of device, such as 'cpu'; None outside of it."""
    if kind in _WITHOUT_AUTOCAST:
        return None
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cpu':
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


@contextmanager
def without_autocast_cache() -> Iterator[None]:
    """Cast weights at each use. At its end autocast drops those it has cached, which a captured graph would read."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


# Modules

def has_hooks(layer: nn.Module) -> bool:
    """Return whether calling ``layer`` does more than its class's forward: own or global hooks, a patched forward."""
    hooks = layer._backward_hooks, layer._backward_pre_hooks
    return changes_result(layer) or any(hooks) or nn.modules.module._has_any_global_hook()


def changes_result(layer: nn.Module) -> bool:
    """Return whether a call of ``layer`` may differ from its class's forward; global hooks only observe."""
    return 'forward' in vars(layer) or bool(layer._forward_hooks or layer._forward_pre_hooks)


def record_modules(root: nn.Module, as_type: type) -> None:
    """Remember the modules in ``root`` at the end of its constructor, for :func:`is_unmodified`.

    Args:
        root: the module.
        as_type: the class of the constructor. A subclass may compute something else, so it never counts as unmodified.
    """
    root._built_modules = (as_type, *_types(root)[1:])


def is_unmodified(root: nn.Module) -> bool:
    """Return whether the formula of ``root`` may replace a call of it.

    True if it has the modules that its constructor made, and none of them has hooks or a patched forward.
    """
    return _types(root) == vars(root).get('_built_modules') and not any(has_hooks(module) for module in root.modules())


def _types(root: nn.Module) -> Tuple[Any, ...]:
    """Return the type of ``root``, and the name and type of each module in it."""
    return (type(root), *((name, type(module)) for name, module in root.named_modules() if name))


class ModuleState(NamedTuple):
    """The state of modules that a captured call depends on: attributes, and addresses of parameters and buffers.

    Values of parameters may change in place, as an optimizer or ``load_state_dict`` changes them: a replay reads them.
    """

    values: List[Any]
    addresses: List[int]

    def equals(self, other: Optional[ModuleState]) -> bool:
        """Return whether every attribute is the same object at the same address."""
        return (other is not None and self.addresses == other.addresses and len(self.values) == len(other.values)
                and all(map(is_, self.values, other.values)))


def module_state(roots: Sequence[nn.Module]) -> Optional[ModuleState]:
    """Return the state of modules and all below them; None if one is in training or has hooks. It takes 0.2 ms."""
    if nn.modules.module._has_any_global_hook():
        return None
    values: List[Any] = []
    addresses: List[int] = []
    todo = list(roots)
    while todo:
        module = todo.pop()
        own = vars(module)
        hooks = (own['_forward_hooks'], own['_forward_pre_hooks'], own['_backward_hooks'], own['_backward_pre_hooks'])
        if own['training'] or any(hooks) or 'forward' in own:
            return None
        values.extend(own.values())
        for tensors in (own['_parameters'], own['_buffers']):
            for tensor in tensors.values():
                if tensor is not None:
                    values.append(tensor)
                    addresses.append(tensor.data_ptr())
        todo.extend(child for child in own['_modules'].values() if child is not None)
    return ModuleState(values, addresses)
