"""The floating-point operations of a Swin, from a formula, and from torch's counter as a check.

The floor of a model on a machine is its floating-point operations (two for a multiply-add, in matrix products and
convolutions only) over the rate at which the machine multiplies large matrices.
"""
from __future__ import annotations

import contextlib
import inspect
from typing import Any, List, Mapping

import torch
from torch import nn

from ...ops.windows import Pair
from .cases import Case

PATCH = 4
MLP_RATIO = 4
PADDINGS = 'left out', 'attended', 'projected'


def swin_flops(variant: Mapping[str, Any], case: Case, padding: str = 'left out') -> int:
    """Return the floating-point operations of one step.

    A block on L tokens of C channels projects to queries, keys and values and back (8 L C^2) and has a feed-forward
    network of 4 C hidden channels (16 L C^2). Attention takes 4 C for each pair of tokens in a window (Swin, section
    3.2, equation 2). Patch merging takes 16 L C^2 of the merged L. Backward takes twice as much as forward, except for
    the gradient of the image, which is not needed.

    Args:
        variant: ``embed_dims``, ``depths``, ``num_heads``.
        case: window, size, batch, mode.
        padding: the work on the padding of windows. 'left out': none, as no result depends on it, and all of it
            as keys and values counts as one token. 'attended': it has queries too, as here with gradients.
            'projected': it is also projected, as in an implementation that pads first.
    """
    if padding not in PADDINGS:
        raise ValueError(f'padding must be one of {PADDINGS}, got {padding!r}')
    channels = variant['embed_dims']
    height, width = (-(-side // PATCH) for side in case.size)
    embedding = 2 * height * width * channels * 3 * PATCH**2
    total = 0
    for stage, depth in enumerate(variant['depths']):
        if stage:
            height, width, channels = -(-height // 2), -(-width // 2), 2 * channels
            total += 4 * height * width * channels**2  # 16 L C^2 with the channels before merging
        window = (height, width) if case.window == 'global' else (case.window, case.window)
        tokens = height * width
        padded = _whole(height, window[0]) * _whole(width, window[1])
        projected = padded if padding == 'projected' else tokens
        total += depth * (8 * projected * channels**2 + 4 * MLP_RATIO * tokens * channels**2)
        for block in range(depth):
            shift = block % 2 and case.window != 'global'
            pairs = padded * window[0] * window[1] if padding != 'left out' else (
                _pairs(height, window[0], shift) * _pairs(width, window[1], shift))
            total += 4 * pairs * channels
    return case.batch * (3 * total + 2 * embedding if case.mode == 'train' else total + embedding)


def _pairs(length: int, side: int, shift: bool) -> int:
    """Return pairs of tokens within the windows along an axis, without padding."""
    padded, by = _whole(length, side), side // 2 if shift else 0
    places = [(slot + by) % padded for slot in range(padded)]
    return sum(sum(place < length for place in places[first:first + side])**2 for first in range(0, padded, side))


def _whole(length: int, window: int) -> int:
    return -(-length // window) * window


def counted_flops(model: nn.Module, size: Pair, batch: int = 1) -> int:
    """Count the same of one forward with torch, on the meta device and without data.

    Args:
        model: on the meta device.
        size: (h, w) of the images.
        batch: images.
    """
    from torch.utils.flop_counter import FlopCounterMode
    quiet = dict(display=False) if 'display' in inspect.signature(FlopCounterMode).parameters else {}
    counter = FlopCounterMode(**quiet)
    with torch.no_grad(), _plain_attention(), counter:
        model(torch.empty(batch, 3, *size, device='meta'))
    return counter.get_total_flops()


def _plain_attention() -> contextlib.AbstractContextManager:
    """Compute attention as two matrix products, which every version of the counter knows."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # torch < 2.3
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    return sdpa_kernel([SDPBackend.MATH])


def exponent(pixels: List[float], values: List[float]) -> float:
    """Return the k of values ~ pixels ** k, by least squares on logarithms."""
    import numpy as np
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])
