"""Whether the code is run, or traced into a graph: for ``torch.compile``, ``torch.export``, ONNX or ``torch.jit``."""
from __future__ import annotations

from typing import Any, Optional

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

if hasattr(torch.compiler, 'is_compiling'):  # torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    from torch._dynamo import is_compiling


def is_tracing() -> bool:
    """True while a graph is made: sizes may be symbols then, and whatever is branched on is fixed in the graph."""
    return is_compiling() or _by_jit()


def is_exporting() -> bool:
    """True while the graph is made for another run time, which knows plain operators only and any size."""
    if _by_jit():
        return True
    # What torch.compiler.is_exporting (torch 2.7) returns; but Dynamo of torch 2.11 takes that for true in any graph.
    return is_compiling() and getattr(torch.compiler, '_is_exporting_flag', False)


def fake_mode() -> Optional[Any]:
    """The mode under which tensors made now are stand-ins without data (``FakeTensorMode``); None outside of one.

    A part of the key of every cache of tensors: a model that is run for real must not find stand-ins.
    """
    modes = [] if is_tracing() else _get_current_dispatch_mode_stack()
    return next((mode for mode in modes if type(mode).__name__ == 'FakeTensorMode'), None)  # slow to import


def is_watched() -> bool:
    """Whether some mode is shown every operator or function: stand-ins for tensors, a FLOP counter, a recorder.

    They know torch's own, and whole windows. So do transformations of functions, which nothing may be written under.
    """
    if is_tracing():
        return False
    modes = [mode for mode in _get_current_function_mode_stack() if type(mode).__name__ != 'DeviceContext']
    return bool(modes or _get_current_dispatch_mode_stack()) or _is_transformed()


def _is_transformed() -> bool:
    """Whether ``torch.func`` (``vmap``, ``jvp``) or forward-mode differentiation is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _by_jit() -> bool:
    """Whether ``torch.jit.trace`` runs the code: for a file, for ONNX, or for MMEngine's count of FLOPs."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
