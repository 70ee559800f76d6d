"""Shifted-window attention in one Triton kernel, forward and backward, for CUDA.

The kernel reads queries, keys and values of tokens in reading order and writes tokens in reading order. Padding, shift,
partition, masks and the bias of offsets are arithmetic in it, so that nothing of them is in memory: of a map with C
channels three are read and one is written, where operators one by one move fourteen.

- ``support``: when it can be used.
- ``operator``: the kernel as an operator of torch, with its derivative.
- ``launch``: grids, block sizes, buffers.
- ``small_windows``, ``large_windows``, ``reductions``, ``tiles``: the kernels.

Importing this package does not import triton; its first call does.
"""
from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor

from ..heads import Rotation
from ..position_bias import PositionBias
from ..runtime import tensor_cache
from ..windows import MAX_CACHED_PLANS, Pair, WindowPlan
from .support import unsupported

__all__ = ['attention', 'unsupported']


def attention(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
              pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Tensor:
    """See :func:`~.window_attention.window_attention`."""
    from .operator import window_attention  # imports triton
    spec = plan.spec
    table = None if bias is None else bias.table.contiguous()
    sizes = None if spec.valid is None else _own_sizes(spec.valid, qkv.device)
    hide = spec.hide_padding and (plan.pad_mask is not None or sizes is not None)
    # Hidden padding has no weight, so that its keys and values do not matter.
    pad = None if pad is None or plan.pad_mask is None or hide else pad.contiguous()
    return window_attention(qkv.contiguous(), pad, table, sizes, spec.size, spec.window, spec.shift, hide, num_heads,
                            scale)


@tensor_cache(MAX_CACHED_PLANS)
def _own_sizes(valid: Sequence[Pair], device: torch.device) -> Tensor:
    """Return (B, 2) int32 heights and widths, made on the device: a copy would make the host wait."""
    sides = [torch.full((1, ), side, dtype=torch.int32, device=device) for pair in valid for side in pair]
    return torch.cat(sides).view(-1, 2)
