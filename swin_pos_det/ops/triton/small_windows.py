"""Attention in windows of up to 64 tokens: a tile holds a whole window.

A program takes windows of one head, one after the other. In the forward pass its tile of the bias stays in registers.
In the backward pass the sum of the gradients of its tiles does: programs write their sums side by side, and
:mod:`.reductions` adds them in a fixed order, so that there are no atomics and gradients repeat bit by bit.

Windows are numbered interior ones first; ``before`` are those before the launch's own.
"""
from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    LOG2E,
    bias_tile,
    hidden_at,
    load_keys,
    load_tile,
    locate,
    mask_logits,
    regions_at,
    store_tile,
    tokens_at,
    unhoisted,
)

NOT_SPECIALIZED = ['H', 'W', 'wh', 'ww', 'sh', 'sw', 'windows', 'before', 'group_before']


@triton.jit
def window_logits(q, k, bias, y, x, real, sizes, image, row, col, H, W, wh, ww, sh, sw, SCALE: tl.constexpr,
                  BLOCK: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HIDE: tl.constexpr,
                  OWN_SIZES: tl.constexpr):
    """Compute the (BLOCK, BLOCK) logits of a window in units of log(2)."""
    logits = tl.dot(q, tl.trans(k), out_dtype=ACC) * (SCALE * LOG2E) + bias
    if EDGE:
        region = regions_at(tl.arange(0, BLOCK), row, col, H, W, wh, ww, sh, sw)
        hidden = hidden_at(y, x, real, sizes, image, OWN_SIZES)
        logits = mask_logits(logits, region, region, hidden, HIDE)
    return logits


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_small(qkv, pad, table, sizes, out, lse, C, H, W, wh, ww, sh, sw, windows, before,
                  SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
                  ACC: tl.constexpr, EDGE: tl.constexpr, HAS_PAD: tl.constexpr, HAS_TABLE: tl.constexpr,
                  HIDE: tl.constexpr, OWN_SIZES: tl.constexpr):
    """Compute ``out`` (B, L, C), and ``lse`` (windows, heads, N), the logarithms of the softmax's sums to base 2."""
    heads, area = C // D, wh * ww
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    at = head * D
    slot = tl.arange(0, BLOCK)
    bias = bias_tile(table, head, heads, slot, slot, wh, ww, ACC, HAS_TABLE)
    for number in range(group, windows, tl.num_programs(0) // heads):
        image, row, col = locate(number, H, W, wh, ww, sh, sw, EDGE, OWN_SIZES)
        y, x, token, real = tokens_at(slot, row, col, H, W, wh, ww, sh, sw, EDGE)
        base = qkv + image * H * W * 3 * C + at
        q = load_tile(base, token, 3 * C, real, D, BLOCK_D)
        k, v = load_keys(base, pad, at, token, real, C, D, BLOCK_D, HAS_PAD)
        logits = window_logits(q, k, bias, y, x, real, sizes, image, row, col, H, W, wh, ww, sh, sw, SCALE, BLOCK,
                               ACC, EDGE, HIDE, OWN_SIZES)
        top = tl.max(logits, 1)
        weights = tl.exp2(logits - top[:, None])
        total = tl.sum(weights, 1)
        attended = tl.dot(weights.to(v.dtype), v, out_dtype=ACC) * (1. / total)[:, None]
        rows = ((before + number) * heads.to(tl.int64) + head) * area
        tl.store(lse + rows + slot, top + tl.log2(total), mask=slot < area)
        store_tile(out + image * H * W * C + at, token, C, real, attended, D, BLOCK_D)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_small(qkv, pad, bias, sizes, lse, grad, grad_qkv, table_sums, pad_sums, C, H, W, wh, ww, sh, sw,
                   windows, before, group_before, SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
                   BLOCK: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HAS_PAD: tl.constexpr,
                   HIDE: tl.constexpr, OWN_SIZES: tl.constexpr, LEARN_TABLE: tl.constexpr,
                   LEARN_PAD: tl.constexpr):
    """Compute ``grad_qkv`` (B, L, 3 C), and sums over the windows of a program.

    These are ``table_sums`` (groups, heads, N, N) of the gradients of logits, and ``pad_sums`` (groups, heads, 2, D) of
    those of the keys and values of padding, for groups of edge windows only.

    With ``P`` the weights and ``O = P V``: ``dV = P^T dO``, ``dP = dO V^T``, ``dS = P * (dP - rowsum(P * dP))``,
    ``dQ = scale * dS K``, ``dK = scale * dS^T Q`` (Dao et al., FlashAttention, https://arxiv.org/abs/2205.14135,
    appendix B.2).
    """
    heads, area = C // D, wh * ww
    head, group = tl.program_id(0) % heads, tl.program_id(0) // heads
    at = head * D
    slot, d = tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
    if LEARN_TABLE:
        table_sum = tl.zeros([BLOCK, BLOCK], ACC)
    if LEARN_PAD:
        k_sum, v_sum = tl.zeros([BLOCK_D], ACC), tl.zeros([BLOCK_D], ACC)
    for number in range(group, windows, tl.num_programs(0) // heads):
        image, row, col = locate(number, H, W, wh, ww, sh, sw, EDGE, OWN_SIZES)
        w = unhoisted(ww, number, EDGE)
        y, x, token, real = tokens_at(slot, row, col, H, W, wh, w, sh, sw, EDGE)
        base = qkv + image * H * W * 3 * C + at
        q = load_tile(base, token, 3 * C, real, D, BLOCK_D)
        k, v = load_keys(base, pad, at, token, real, C, D, BLOCK_D, HAS_PAD)
        do = load_tile(grad + image * H * W * C + at, token, C, real, D, BLOCK_D)
        of_pairs = tl.load(bias + (head * BLOCK + slot[:, None]) * BLOCK + slot[None, :])
        logits = window_logits(q, k, of_pairs, y, x, real, sizes, image, row, col, H, W, wh, w, sh, sw, SCALE, BLOCK,
                               ACC, EDGE, HIDE, OWN_SIZES)
        rows = ((before + number) * heads.to(tl.int64) + head) * area
        weights = tl.exp2(logits - tl.load(lse + rows + slot, mask=slot < area, other=float('inf'))[:, None])
        dv = tl.dot(tl.trans(weights.to(do.dtype)), do, out_dtype=ACC)  # first: fewer registers are alive
        ds = tl.dot(do, tl.trans(v), out_dtype=ACC)
        ds = weights * (ds - tl.sum(weights * ds, 1)[:, None])
        ds = ds.to(q.dtype)
        if LEARN_TABLE:
            table_sum += ds.to(ACC)  # rounded as for dq and dk: 50 registers fewer
        dk = tl.dot(tl.trans(ds), q, out_dtype=ACC) * SCALE
        dq = tl.dot(ds, k, out_dtype=ACC) * SCALE
        to = grad_qkv + image * H * W * 3 * C + at
        store_tile(to, token, 3 * C, real, dq, D, BLOCK_D)
        store_tile(to + C, token, 3 * C, real, dk, D, BLOCK_D)
        store_tile(to + 2 * C, token, 3 * C, real, dv, D, BLOCK_D)
        if LEARN_PAD:
            k_sum += tl.sum(tl.where(real[:, None], 0., dk), 0)
            v_sum += tl.sum(tl.where(real[:, None], 0., dv), 0)
    if LEARN_TABLE:
        program = (group_before + group) * heads.to(tl.int64) + head
        tl.store(table_sums + program * area * area + slot[:, None] * area + slot[None, :], table_sum,
                 mask=(slot < area)[:, None] & (slot < area)[None, :])
    if LEARN_PAD:
        program = group.to(tl.int64) * heads + head
        tl.store(pad_sums + program * 2 * D + d, k_sum, mask=d < D)
        tl.store(pad_sums + program * 2 * D + D + d, v_sum, mask=d < D)
