"""Where positions are computed in full precision."""
from __future__ import annotations

from contextlib import nullcontext
from typing import ContextManager, Optional

import torch


def without_autocast(device_type: str) -> ContextManager:
    """A context in which operators on devices of a type, such as ``'cuda'``, keep the precision of their inputs.

    The meta device has no autocast to switch off; asked for one, torch raises.
    """
    return nullcontext() if device_type == 'meta' else torch.autocast(device_type, enabled=False)


def autocast_dtype_on_cpu() -> Optional[torch.dtype]:
    """What autocast casts a CPU's matrix products to; None outside of it."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
