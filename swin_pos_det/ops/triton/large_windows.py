"""Attention in windows of 65 to 256 tokens: tiles of some queries and some keys.

The softmax is computed block by block of keys (online softmax; Dao et al., FlashAttention,
https://arxiv.org/abs/2205.14135, algorithm 1). The backward pass recomputes the weights twice: for the gradients of
queries, and for those of keys and values, where a program holds all queries of a window and takes windows one after the
other, so that the gradient of the bias is summed in registers as for small windows.

The bias of all pairs is expanded before (:mod:`.reductions`): with tiles this small, looking offsets up in the table
would take more instructions than the products.
"""
from __future__ import annotations

import triton
import triton.language as tl

from .tiles import (
    LOG2E,
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
def block_logits(q, k, bias, head, query, key, y_k, x_k, real_k, sizes, image, row, col, H, W, wh, ww, sh, sw, side,
                 SCALE: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HIDE: tl.constexpr,
                 OWN_SIZES: tl.constexpr):
    """Compute (queries, keys) logits in units of log(2), from the expanded ``bias`` (heads, side, side)."""
    of_pairs = tl.load(bias + head * side * side + query[:, None] * side + key[None, :]).to(ACC)
    logits = tl.dot(q, tl.trans(k), out_dtype=ACC) * (SCALE * LOG2E) + of_pairs
    if EDGE:
        region_q = regions_at(query, row, col, H, W, wh, ww, sh, sw)
        region_k = regions_at(key, row, col, H, W, wh, ww, sh, sw)
        hidden_k = hidden_at(y_k, x_k, real_k, sizes, image, OWN_SIZES)
        logits = mask_logits(logits, region_q, region_k, hidden_k, HIDE)
    return logits


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def forward_large(qkv, pad, bias, sizes, out, lse, C, H, W, wh, ww, sh, sw, windows, before, side,
                  SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
                  BLOCK_K: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HAS_PAD: tl.constexpr,
                  HIDE: tl.constexpr, OWN_SIZES: tl.constexpr):
    """Do what ``forward_small`` does; a program takes ``BLOCK_Q`` queries of a window and head."""
    heads, area = C // D, wh * ww
    blocks = tl.cdiv(area, BLOCK_Q)
    head = tl.program_id(0) // blocks % heads
    number = tl.program_id(0) // blocks // heads
    query = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    at = head * D
    image, row, col = locate(number, H, W, wh, ww, sh, sw, EDGE, OWN_SIZES)
    base = qkv + image * H * W * 3 * C + at
    _, _, token, real = tokens_at(query, row, col, H, W, wh, ww, sh, sw, EDGE)
    q = load_tile(base, token, 3 * C, real, D, BLOCK_D)
    top = tl.full([BLOCK_Q], float('-inf'), ACC)
    total = tl.zeros([BLOCK_Q], ACC)
    attended = tl.zeros([BLOCK_Q, BLOCK_D], ACC)
    for start in range(0, area, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        y_k, x_k, token_k, real_k = tokens_at(key, row, col, H, W, wh, ww, sh, sw, EDGE)
        k, v = load_keys(base, pad, at, token_k, real_k, C, D, BLOCK_D, HAS_PAD)
        logits = block_logits(q, k, bias, head, query, key, y_k, x_k, real_k, sizes, image, row, col, H, W, wh, ww, sh,
                              sw, side, SCALE, ACC, EDGE, HIDE, OWN_SIZES)
        new_top = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        attended = attended * shrink[:, None] + tl.dot(weights.to(v.dtype), v, out_dtype=ACC)
        top = new_top
    store_tile(out + image * H * W * C + at, token, C, real, attended * (1. / total)[:, None], D, BLOCK_D)
    rows = ((before + number).to(tl.int64) * heads + head) * area
    tl.store(lse + rows + query, top + tl.log2(total), mask=query < area)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_queries(qkv, pad, bias, sizes, out, lse, grad, grad_qkv, delta, C, H, W, wh, ww, sh, sw, windows, before,
                     side, SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
                     BLOCK_K: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HAS_PAD: tl.constexpr,
                     HIDE: tl.constexpr, OWN_SIZES: tl.constexpr):
    """Compute the gradient of queries, in ``grad_qkv`` (B, L, 3 C), and ``delta = rowsum(O * dO)``, like ``lse``."""
    heads, area = C // D, wh * ww
    blocks = tl.cdiv(area, BLOCK_Q)
    head = tl.program_id(0) // blocks % heads
    number = tl.program_id(0) // blocks // heads
    query = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    at = head * D
    image, row, col = locate(number, H, W, wh, ww, sh, sw, EDGE, OWN_SIZES)
    base = qkv + image * H * W * 3 * C + at
    _, _, token, real = tokens_at(query, row, col, H, W, wh, ww, sh, sw, EDGE)
    q = load_tile(base, token, 3 * C, real, D, BLOCK_D)
    o = load_tile(out + image * H * W * C + at, token, C, real, D, BLOCK_D)
    do = load_tile(grad + image * H * W * C + at, token, C, real, D, BLOCK_D)
    rows = ((before + number).to(tl.int64) * heads + head) * area
    log_total = tl.load(lse + rows + query, mask=query < area, other=float('inf'))
    dots = tl.sum(o.to(ACC) * do.to(ACC), 1)
    tl.store(delta + rows + query, dots, mask=query < area)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], ACC)
    for start in range(0, area, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        y_k, x_k, token_k, real_k = tokens_at(key, row, col, H, W, wh, ww, sh, sw, EDGE)
        k, v = load_keys(base, pad, at, token_k, real_k, C, D, BLOCK_D, HAS_PAD)
        logits = block_logits(q, k, bias, head, query, key, y_k, x_k, real_k, sizes, image, row, col, H, W, wh, ww, sh,
                              sw, side, SCALE, ACC, EDGE, HIDE, OWN_SIZES)
        weights = tl.exp2(logits - log_total[:, None])
        ds = weights * (tl.dot(do, tl.trans(v), out_dtype=ACC) - dots[:, None])
        dq += tl.dot(ds.to(k.dtype), k, out_dtype=ACC)
    store_tile(grad_qkv + image * H * W * 3 * C + at, token, 3 * C, real, dq * SCALE, D, BLOCK_D)


@triton.jit
def block_gradients(qkv, bias, sizes, lse, delta, grad, k, v, key, y_k, x_k, real_k, first, head, image, row, col, rows,
                    C, H, W, wh, ww, sh, sw, side, SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
                    BLOCK_Q: tl.constexpr, ACC: tl.constexpr, EDGE: tl.constexpr, HIDE: tl.constexpr,
                    OWN_SIZES: tl.constexpr):
    """Compute, for some queries from ``first``, the gradients of their logits, and their share of those of k and v."""
    area = wh * ww
    query = first + tl.arange(0, BLOCK_Q)
    _, _, token, real = tokens_at(query, row, col, H, W, wh, ww, sh, sw, EDGE)
    q = load_tile(qkv + image * H * W * 3 * C + head * D, token, 3 * C, real, D, BLOCK_D)
    do = load_tile(grad + image * H * W * C + head * D, token, C, real, D, BLOCK_D)
    log_total = tl.load(lse + rows + query, mask=query < area, other=float('inf'))
    dots = tl.load(delta + rows + query, mask=query < area, other=0.)
    logits = block_logits(q, k, bias, head, query, key, y_k, x_k, real_k, sizes, image, row, col, H, W, wh, ww, sh, sw,
                          side, SCALE, ACC, EDGE, HIDE, OWN_SIZES)
    weights = tl.exp2(logits - log_total[:, None])
    dv = tl.dot(tl.trans(weights.to(do.dtype)), do, out_dtype=ACC)  # first: fewer registers are alive
    ds = (weights * (tl.dot(do, tl.trans(v), out_dtype=ACC) - dots[:, None])).to(q.dtype)
    dk = tl.dot(tl.trans(ds), q, out_dtype=ACC) * SCALE
    return ds, dk, dv


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def backward_keys(qkv, pad, bias, sizes, lse, delta, grad, grad_qkv, table_sums, pad_sums, C, H, W, wh, ww, sh, sw,
                  windows, before, group_before, side, SCALE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
                  BLOCK_Q: tl.constexpr, REST_Q: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
                  EDGE: tl.constexpr, HAS_PAD: tl.constexpr, HIDE: tl.constexpr, OWN_SIZES: tl.constexpr,
                  LEARN_TABLE: tl.constexpr, LEARN_PAD: tl.constexpr):
    """Compute the gradients of keys and values, and sums as in ``backward_small``, but ``pad_sums`` for each block too.

    A program holds all queries, in blocks of ``BLOCK_Q`` and ``REST_Q`` (0 for none), and ``BLOCK_K`` keys.
    """
    heads, area = C // D, wh * ww
    blocks = tl.cdiv(area, BLOCK_K)
    head = tl.program_id(0) % heads
    block = tl.program_id(0) // heads % blocks
    group = tl.program_id(0) // heads // blocks
    at = head * D
    key, d = block * BLOCK_K + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_D)
    if LEARN_TABLE:
        table_sum = tl.zeros([BLOCK_Q, BLOCK_K], ACC)
        if REST_Q > 0:
            rest_sum = tl.zeros([REST_Q, BLOCK_K], ACC)
    if LEARN_PAD:
        k_sum, v_sum = tl.zeros([BLOCK_D], ACC), tl.zeros([BLOCK_D], ACC)
    for number in range(group, windows, tl.num_programs(0) // heads // blocks):
        image, row, col = locate(number, H, W, wh, ww, sh, sw, EDGE, OWN_SIZES)
        w = unhoisted(ww, number, EDGE and not OWN_SIZES)  # with images' own sizes more is spilled: 48 bytes, not 16
        y_k, x_k, token_k, real_k = tokens_at(key, row, col, H, W, wh, w, sh, sw, EDGE)
        k, v = load_keys(qkv + image * H * W * 3 * C + at, pad, at, token_k, real_k, C, D, BLOCK_D, HAS_PAD)
        rows = ((before + number) * heads.to(tl.int64) + head) * area
        ds, dk, dv = block_gradients(qkv, bias, sizes, lse, delta, grad, k, v, key, y_k, x_k, real_k, 0, head, image,
                                     row, col, rows, C, H, W, wh, w, sh, sw, side, SCALE, D, BLOCK_D, BLOCK_Q, ACC,
                                     EDGE, HIDE, OWN_SIZES)
        if LEARN_TABLE:
            table_sum += ds.to(ACC)
        if REST_Q > 0:
            ds, dk_rest, dv_rest = block_gradients(qkv, bias, sizes, lse, delta, grad, k, v, key, y_k, x_k, real_k,
                                                   BLOCK_Q, head, image, row, col, rows, C, H, W, wh, w, sh, sw, side,
                                                   SCALE, D, BLOCK_D, REST_Q, ACC, EDGE, HIDE, OWN_SIZES)
            dk += dk_rest
            dv += dv_rest
            if LEARN_TABLE:
                rest_sum += ds.to(ACC)
        to = grad_qkv + image * H * W * 3 * C + at
        store_tile(to + C, token_k, 3 * C, real_k, dk, D, BLOCK_D)
        store_tile(to + 2 * C, token_k, 3 * C, real_k, dv, D, BLOCK_D)
        if LEARN_PAD:
            k_sum += tl.sum(tl.where(real_k[:, None], 0., dk), 0)
            v_sum += tl.sum(tl.where(real_k[:, None], 0., dv), 0)
    if LEARN_TABLE:
        query = tl.arange(0, BLOCK_Q)
        to_sums = table_sums + ((group_before + group) * heads.to(tl.int64) + head) * area * area + key[None, :]
        tl.store(to_sums + query[:, None] * area, table_sum, mask=(query < area)[:, None] & (key < area)[None, :])
        if REST_Q > 0:
            query = BLOCK_Q + tl.arange(0, REST_Q)
            tl.store(to_sums + query[:, None] * area, rest_sum, mask=(query < area)[:, None] & (key < area)[None, :])
    if LEARN_PAD:
        program = (group * blocks.to(tl.int64) + block) * heads + head
        tl.store(pad_sums + program * 2 * D + d, k_sum, mask=d < D)
        tl.store(pad_sums + program * 2 * D + D + d, v_sum, mask=d < D)
