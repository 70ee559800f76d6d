"""Where positions are computed in full precision."""
from __future__ import annotations

from contextlib import nullcontext
from typing import ContextManager

import torch


def without_autocast(device_type: str) -> ContextManager:
    """A context in which operators on devices of a type, such as ``'cuda'``, keep the precision of their inputs.

    The meta device has no autocast to switch off; asked for one, torch raises.
    """
    return nullcontext() if device_type == 'meta' else torch.autocast(device_type, enabled=False)
