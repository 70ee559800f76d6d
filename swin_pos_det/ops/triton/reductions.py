"""Between the table and the pairs of tokens of a window, once for all windows: expand the bias, add up its gradient."""
from __future__ import annotations

import triton
import triton.language as tl

from .tiles import bias_tile


@triton.jit(do_not_specialize=['heads', 'wh', 'ww'])
def expand_table(table, bias, heads, wh, ww, side, BLOCK: tl.constexpr, ACC: tl.constexpr, HAS_TABLE: tl.constexpr):
    """Expand a table to ``bias`` (heads, side, side) in units of log(2).

    Slots beyond the window's are 0 as queries and -inf as keys.
    """
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(2)
    tile = bias_tile(table, head, heads, query, key, wh, ww, ACC, HAS_TABLE)
    tl.store(bias + head * side * side + query[:, None] * side + key[None, :], tile)


@triton.jit(do_not_specialize=['groups', 'heads', 'wh', 'ww'])
def table_gradient(table_sums, grad_table, groups, heads, wh, ww, BLOCK: tl.constexpr, BLOCK_G: tl.constexpr,
                   ACC: tl.constexpr):
    """Add up (groups, heads, N, N) to ((2 wh - 1) (2 ww - 1), heads): the pairs of each offset, in a fixed order."""
    offset, head = tl.program_id(0), tl.program_id(1)
    down = offset // (2 * ww - 1) - (wh - 1)
    across = offset % (2 * ww - 1) - (ww - 1)
    query = tl.arange(0, BLOCK)
    r = query // ww - down
    c = query % ww - across
    pair = query * wh * ww + r * ww + c
    own = (query < wh * ww) & (r >= 0) & (r < wh) & (c >= 0) & (c < ww)
    total = tl.zeros([BLOCK_G, BLOCK], ACC)
    for start in range(0, groups, BLOCK_G):
        group = start + tl.arange(0, BLOCK_G)
        at = (group.to(tl.int64) * heads + head) * wh * ww * wh * ww
        total += tl.load(table_sums + at[:, None] + pair[None, :], mask=(group < groups)[:, None] & own[None, :],
                         other=0.)
    tl.store(grad_table + offset * heads + head, tl.sum(tl.sum(total, 0), 0).to(grad_table.dtype.element_ty))


@triton.jit(do_not_specialize=['rows', 'heads'])
def pad_gradient(pad_sums, grad_pad, rows, heads, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_G: tl.constexpr,
                 ACC: tl.constexpr):
    """Add up (rows, heads, 2, D) to (3, heads, D): keys and values of padding; its queries get zeros."""
    part, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_G, BLOCK_D], ACC)
    if part > 0:
        for start in range(0, rows, BLOCK_G):
            row = start + tl.arange(0, BLOCK_G)
            at = ((row.to(tl.int64) * heads + head) * 2 + part - 1) * D
            total += tl.load(pad_sums + at[:, None] + d[None, :], mask=(row < rows)[:, None] & (d < D)[None, :],
                             other=0.)
    tl.store(grad_pad + (part * heads + head) * D + d, tl.sum(total, 0).to(grad_pad.dtype.element_ty), mask=d < D)
