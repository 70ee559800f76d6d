"""Chunks: some tokens or windows at a time, so that the intermediate results stay in a core's cache."""
from __future__ import annotations

import os
from functools import wraps
from typing import Any, Callable, List

import torch
from torch import Tensor, nn

from ..masks import split
from ..optimizations import OPTIMIZATIONS
from ..runtime import can_break_graph, is_plain_inference, is_unmodified
from ..window_attention import requested_impl

# Tokens at a time. Their hidden channels stay in a core's cache, even 4 * 768 of them, and they are enough for
# efficient matrix products.
CHUNK = 1024
# Slots of windows at a time, in attention.
MAX_SLOTS = 4 * CHUNK
# Maps of at least this many numbers, 3 MB in float32: smaller ones stay in the cache anyway.
MIN_NUMBERS = 3 * 2**18


def is_large(x: Tensor) -> bool:
    """Return whether a map is on a CPU, without gradients, and too large to stay in the cache."""
    return not torch.is_grad_enabled() and x.device.type == 'cpu' and x.numel() >= MIN_NUMBERS


def not_compiled(forward: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    """Decorate the forward of a backbone: ``torch.compile`` leaves large images to eager mode.

    A graph would have whole windows and all tokens at once: chunks would be unrolled, once for each size.
    """
    @wraps(forward)
    def chosen(module: nn.Module, x: Tensor) -> Any:
        if is_large(x) and can_break_graph() and _is_enabled():
            return torch.compiler.disable(forward)(module, x)
        return forward(module, x)
    return chosen


def can_chunk(module: nn.Module) -> bool:
    """Return whether ``module`` may be replaced by its formula, applied to chunks of a map."""
    if not is_plain_inference() or requested_impl() is not None:
        return False
    return _is_enabled() and is_unmodified(module) and not any(part.training for part in module.modules())


def _is_enabled() -> bool:
    return os.environ.get('SWIN_POS_DET_CPU_INFERENCE', '1') != '0'


def chunk_size(length: int) -> int:
    """Return how many of ``length`` tokens to process at a time."""
    return CHUNK if OPTIMIZATIONS['chunks'] else length


def recurring_chunks(length: int, most: int, least: int) -> List[slice]:
    """Return chunks of ``length`` items in sizes that recur at other lengths: ``most``, then powers of two.

    The rest below ``least`` is one chunk.
    """
    if not OPTIMIZATIONS['chunks']:
        return split(length, length)
    slices, first = [], 0
    while first < length:
        left = length - first
        power = 1 << (left.bit_length() - 1)
        size = most if left >= most else power if power >= least else left
        slices.append(slice(first, first + size))
        first += size
    return slices
