"""Mixed precision on the CPU, which MMEngine's ``AmpOptimWrapper`` refuses."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, List

import torch
from mmengine.config import Config
from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ..checkpoints import unwrapped
from ..errors import SettingError
from ..type_names import type_name


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """An optimizer wrapper that runs a detector's backbone and neck in bfloat16 autocast, and its heads in float32.

    Heads stay in float32 because MMCV's operators (RoIAlign, NMS) have no bfloat16 kernel on the CPU, and box
    coordinates need more than bfloat16's 8 bits. A model without a ``backbone`` runs in autocast as a whole. There is
    no loss scaling: bfloat16 has float32's range.

    Args:
        loss_scale: accepted, so that a config for ``AmpOptimWrapper`` also works here, and without effect.
        dtype: None or ``'bfloat16'``, the type that autocast supports on the CPU.
        **kwargs: those of :class:`mmengine.optim.OptimWrapper`.

    Raises:
        ValueError: if ``dtype`` is another type.
    """

    def __init__(self, loss_scale: Any = None, dtype: str | torch.dtype | None = None, **kwargs: Any) -> None:
        if dtype not in (None, 'bfloat16', torch.bfloat16):
            raise SettingError(f"dtype must be None or 'bfloat16' on the CPU, got {dtype!r}")
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast in the forward of ``model``, and MMEngine's context for gradient accumulation."""
        inner = unwrapped(model)
        parts = [part for part in (getattr(inner, name, None) for name in ('backbone', 'neck')) if part is not None]
        with ExitStack() as stack:
            stack.enter_context(super().optim_context(model))
            if not parts:
                stack.enter_context(torch.autocast('cpu', dtype=torch.bfloat16))
            for part in parts:
                _run_in_bfloat16(part, stack)
            yield


def _run_in_bfloat16(module: nn.Module, stack: ExitStack) -> None:
    """Run ``module``'s forward under autocast until ``stack`` closes, with outputs in float32.

    The hooks are next to the forward, so other hooks of the module see float32 and run without autocast.
    """
    entered: List[torch.autocast] = []

    def enter(_: nn.Module, inputs: Any) -> None:
        entered.append(torch.autocast('cpu', dtype=torch.bfloat16))
        entered[-1].__enter__()

    def leave(_: nn.Module, inputs: Any, outputs: Any) -> Any:
        if entered:  # it is also called after an error, such as one in another hook
            entered.pop().__exit__(None, None, None)
        return _to_float32(outputs)

    stack.callback(module.register_forward_pre_hook(enter).remove)
    stack.callback(module.register_forward_hook(leave, prepend=True, always_call=True).remove)


def _to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, (tuple, list)):
        return type(value)(_to_float32(item) for item in value)
    return value


def use_mixed_precision(cfg: Config, requested: bool) -> None:
    """Set up mixed precision for the device at hand, if the command line or the config asks for it.

    Args:
        cfg: a config with ``optim_wrapper``; changed in place.
        requested: whether the command line asks for it (``--amp``).
    """
    wrapper = cfg.optim_wrapper
    if requested:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.loss_scale = 'dynamic'
    if type_name(wrapper) != 'AmpOptimWrapper' or has_accelerator():
        return
    print_log('no GPU: mixed precision is bfloat16 for backbone and neck, float32 for the heads', logger='current')
    wrapper.type = 'CPUAmpOptimWrapper'
    wrapper.pop('loss_scale', None)
    wrapper.pop('dtype', None)


def has_accelerator() -> bool:
    """Return whether there is a device of the kinds that MMEngine trains on, other than the CPU."""
    return is_cuda_available() or is_npu_available() or is_mlu_available() or is_musa_available()
