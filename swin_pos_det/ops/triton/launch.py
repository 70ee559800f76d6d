"""Launch the kernels: which windows, block sizes, grids, buffers. It imports triton: import it only where it is used.

The compiled code depends on the class of the window (up to 16, 32, 64 tokens, or larger), the channels of a head, the
dtype, and which of padding, masks and bias there are. It does not depend on H, W, the window, the shift, or the number
of images, windows and heads, so a model compiles a handful of kernels, once per machine.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..windows import Pair
from .large_windows import backward_keys, backward_queries, forward_large
from .reductions import expand_table, pad_gradient, table_gradient
from .small_windows import backward_small, forward_small

MAX_SMALL = 64  # tokens of a window that fits one tile
# Programs that take windows one after the other: enough to fill a large GPU (132 multiprocessors) several times, and
# few enough that their sums of the bias's gradient stay small.
PROGRAMS = 132 * 8
BLOCK_Q, BLOCK_K = 64, 32  # queries and keys of a tile of large windows


class Kind(NamedTuple):
    """Interior or edge windows of all images, see :mod:`.tiles`.

    Attributes:
        count: windows.
        before: windows numbered before them.
        flags: compile-time arguments.
    """

    count: int
    before: int
    flags: Dict[str, bool]


class Call(NamedTuple):
    """What the launches of a call have in common.

    Attributes:
        geometry: (C, H, W, wh, ww, sh, sw).
        kinds: the kinds of windows that there are.
        area: tokens of a window.
        heads: number of heads.
        constants: compile-time arguments of all kernels that read tokens.
        accumulate: triton's dtype of sums.
    """

    geometry: Tuple[int, ...]
    kinds: Tuple[Kind, ...]
    area: int
    heads: int
    constants: Dict[str, Any]
    accumulate: Any

    @property
    def windows(self) -> int:
        """The number of windows of all images."""
        return sum(kind.count for kind in self.kinds)

    def groups(self, kind: Kind, programs_each: int) -> int:
        """Return how many groups of ``programs_each`` programs share the windows of a kind."""
        return max(1, min(kind.count, PROGRAMS // programs_each))

    def grouped(self, programs_each: int) -> Iterator[Tuple[Kind, int, int]]:
        """Yield each kind, its groups, and the groups before them."""
        before = 0
        for kind in self.kinds:
            groups = self.groups(kind, programs_each)
            yield kind, groups, before
            before += groups


def count_windows(batch: int, size: Pair, window: Pair, shift: Pair, own_sizes: bool) -> Tuple[int, int]:
    """Return how many interior and edge windows there are, as ``tiles.locate`` numbers them."""
    total = interior = batch
    for length, side, shifted in zip(size, window, shift):
        total *= -(-length // side)
        interior *= 0 if own_sizes else max(length - shifted, 0) // side
    return interior, total - interior


@lru_cache(maxsize=512)
def plan_call(dtype: torch.dtype, batch: int, channels: int, size: Pair, window: Pair, shift: Pair, hide: bool,
              own_sizes: bool, has_pad: bool, heads: int, scale: float) -> Call:
    """Plan the launches for these shapes and settings. Cached, as planning takes as long as a launch."""
    interior, edges = count_windows(batch, size, window, shift, own_sizes)
    kinds = (Kind(interior, 0, dict(EDGE=False, HAS_PAD=False, HIDE=False)),
             Kind(edges, interior, dict(EDGE=True, HAS_PAD=has_pad, HIDE=hide)))
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32
    constants = dict(SCALE=scale, D=channels // heads, BLOCK_D=block_of(channels // heads), OWN_SIZES=own_sizes,
                     ACC=accumulate, enable_fp_fusion=True)
    return Call((channels, *size, *window, *shift), tuple(kind for kind in kinds if kind.count),
                window[0] * window[1], heads, constants, accumulate)


def block_of(length: int) -> int:
    """Return the side of a tile that holds ``length`` rows or columns."""
    return max(16, triton.next_power_of_2(length))


def query_blocks(area: int, edge: bool) -> Tuple[int, int]:
    """Return two sides of tiles, the second possibly 0, that cover the queries of a large window.

    A second tile saves up to half of the work, but leaves no registers for the masks of edge windows.
    """
    whole = block_of(area)
    rest = block_of(area - whole // 2)
    return (whole, 0) if edge or whole <= 128 or rest == whole // 2 else (whole // 2, rest)


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def forward(qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor], size: Pair,
            window: Pair, shift: Pair, hide: bool, num_heads: int, scale: float) -> Tuple[Tensor, Tensor]:
    """See :func:`~.operator.window_attention`."""
    channels = qkv.shape[2] // 3
    call = plan_call(qkv.dtype, qkv.shape[0], channels, tuple(size), tuple(window), tuple(shift), hide,
                     sizes is not None, pad is not None, num_heads, scale)
    out = qkv.new_empty(qkv.shape[0], qkv.shape[1], channels)
    lse = qkv.new_empty(call.windows, num_heads, call.area, dtype=exact_dtype(qkv.dtype))
    pad, sizes = _or(pad, qkv), _or(sizes, qkv)
    with torch.cuda.device_of(qkv):
        if call.area <= MAX_SMALL:
            for kind, groups, _ in call.grouped(num_heads):
                forward_small[(groups * num_heads, )](
                    qkv, pad, _or(table, qkv), sizes, out, lse, *call.geometry, kind.count, kind.before,
                    BLOCK=block_of(call.area), HAS_TABLE=table is not None, num_warps=4, num_stages=2, **kind.flags,
                    **call.constants)
        else:
            bias = _expand(call, table, lse)
            for kind in call.kinds:
                forward_large[(kind.count * num_heads * triton.cdiv(call.area, BLOCK_Q), )](
                    qkv, pad, bias, sizes, out, lse, *call.geometry, kind.count, kind.before, bias.shape[1],
                    BLOCK_Q=BLOCK_Q, BLOCK_K=BLOCK_K, num_warps=4, num_stages=2, **kind.flags, **call.constants)
    return out, lse


def backward(grad: Tensor, qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor],
             out: Tensor, lse: Tensor, size: Pair, window: Pair, shift: Pair, hide: bool, num_heads: int, scale: float,
             learn_pad: bool, learn_table: bool) -> Tuple[Tensor, Tensor, Tensor]:
    """See :func:`~.operator.window_attention_backward`."""
    call = plan_call(qkv.dtype, qkv.shape[0], qkv.shape[2] // 3, tuple(size), tuple(window), tuple(shift), hide,
                     sizes is not None, pad is not None, num_heads, scale)
    grad_qkv = torch.empty_like(qkv)
    grad_pad = torch.empty_like(pad) if learn_pad else qkv.new_empty(0)
    grad_table = torch.empty_like(table) if learn_table else qkv.new_empty(0)
    backward_of_windows = _backward_small if call.area <= MAX_SMALL else _backward_large
    with torch.cuda.device_of(qkv):
        table_sums, pad_sums = backward_of_windows(
            call, grad.contiguous(), qkv, _or(pad, qkv), _expand(call, table, lse), _or(sizes, qkv), out, lse, grad_qkv,
            learn_pad, learn_table)
        sums = dict(ACC=call.accumulate, num_warps=4, enable_fp_fusion=True)
        if learn_table:
            block = block_of(call.area)
            table_gradient[(table.shape[0], num_heads)](
                table_sums, grad_table, table_sums.shape[0], num_heads, *window, BLOCK=block,
                BLOCK_G=max(4, 2048 // block), **sums)
        if learn_pad:
            pad_gradient[(3, num_heads)](
                pad_sums, grad_pad, pad_sums.shape[0], num_heads, D=call.constants['D'],
                BLOCK_D=call.constants['BLOCK_D'], BLOCK_G=32, **sums)
    return grad_qkv, grad_pad, grad_table


def _or(tensor: Optional[Tensor], other: Tensor) -> Tensor:
    """Return a tensor in any case: the kernel does not read ``other``, but takes no None."""
    return other if tensor is None else tensor


def _expand(call: Call, table: Optional[Tensor], like: Tensor) -> Tensor:
    """Return (heads, side, side), the bias of all pairs; no tile of queries or keys goes beyond ``side``."""
    side = block_of(call.area)
    block = min(side, BLOCK_K if call.area > MAX_SMALL else MAX_SMALL)
    bias = like.new_empty(call.heads, side, side)
    expand_table[(side // block, side // block, call.heads)](
        _or(table, bias), bias, call.heads, *call.geometry[3:5], side, BLOCK=block, ACC=call.accumulate,
        HAS_TABLE=table is not None, num_warps=4, enable_fp_fusion=True)
    return bias


def _sums(call: Call, lse: Tensor, programs_each: int, pad_rows_each: int, learn_pad: bool,
          learn_table: bool) -> Tuple[Tensor, Tensor]:
    """Make buffers for the sums of groups; interior windows have no padding."""
    groups = [(groups, kind.flags['HAS_PAD']) for kind, groups, _ in call.grouped(programs_each)]
    table_rows = sum(count for count, _ in groups) if learn_table else 0
    pad_rows = sum(count for count, has_pad in groups if has_pad) * pad_rows_each if learn_pad else 0
    return (lse.new_empty(table_rows, call.heads, call.area, call.area),
            lse.new_empty(pad_rows, call.heads, 2, call.constants['D']))


def _backward_small(call: Call, grad: Tensor, qkv: Tensor, pad: Tensor, bias: Tensor, sizes: Tensor, out: Tensor,
                    lse: Tensor, grad_qkv: Tensor, learn_pad: bool, learn_table: bool) -> Tuple[Tensor, Tensor]:
    table_sums, pad_sums = _sums(call, lse, call.heads, 1, learn_pad, learn_table)
    for kind, groups, groups_before in call.grouped(call.heads):
        backward_small[(groups * call.heads, )](
            qkv, pad, bias, sizes, lse, grad, grad_qkv, table_sums, pad_sums, *call.geometry, kind.count, kind.before,
            groups_before, BLOCK=block_of(call.area), LEARN_TABLE=learn_table,
            LEARN_PAD=learn_pad and kind.flags['HAS_PAD'], num_warps=4, num_stages=2, **kind.flags, **call.constants)
    return table_sums, pad_sums


def _backward_large(call: Call, grad: Tensor, qkv: Tensor, pad: Tensor, bias: Tensor, sizes: Tensor, out: Tensor,
                    lse: Tensor, grad_qkv: Tensor, learn_pad: bool, learn_table: bool) -> Tuple[Tensor, Tensor]:
    delta, side = torch.empty_like(lse), bias.shape[1]
    for kind in call.kinds:
        backward_queries[(kind.count * call.heads * triton.cdiv(call.area, BLOCK_Q), )](
            qkv, pad, bias, sizes, out, lse, grad, grad_qkv, delta, *call.geometry, kind.count, kind.before, side,
            BLOCK_Q=BLOCK_Q, BLOCK_K=BLOCK_K, num_warps=4, num_stages=1, **kind.flags, **call.constants)
    blocks = triton.cdiv(call.area, BLOCK_K)
    table_sums, pad_sums = _sums(call, lse, blocks * call.heads, blocks, learn_pad, learn_table)
    for kind, groups, groups_before in call.grouped(blocks * call.heads):
        queries, rest = query_blocks(call.area, kind.flags['EDGE'])
        backward_keys[(groups * blocks * call.heads, )](
            qkv, pad, bias, sizes, lse, delta, grad, grad_qkv, table_sums, pad_sums, *call.geometry, kind.count,
            kind.before, groups_before, side, BLOCK_Q=queries, REST_Q=rest, BLOCK_K=BLOCK_K, LEARN_TABLE=learn_table,
            LEARN_PAD=learn_pad and kind.flags['HAS_PAD'], num_warps=8, num_stages=2 if rest else 1, **kind.flags,
            **call.constants)
    return table_sums, pad_sums
