"""What all kernels share: where the tokens of a window lie, tiles of them, and the logits' bias and masks.

Letters as in :mod:`..windows`: maps of ``H x W`` tokens, windows of ``wh x ww`` tokens, a shift of ``(sh, sw)``. A
*slot* is a place in a window, numbered row by row. *Interior* windows hold tokens of one part of the map and nothing
else; *edge* windows may hold padding, hidden tokens, or parts that the shift has brought together. Kernels are compiled
for either kind (``EDGE``), so that interior windows, which are most, pay for no masks.
"""
from __future__ import annotations

import triton
import triton.language as tl

# Logits are in units of log(2), as exp2 is one instruction.
LOG2E = tl.constexpr(1.4426950408889634)
# MASKED_LOGIT and HIDDEN_LOGIT of :mod:`..masks` in these units.
MASKED = tl.constexpr(-100 * 1.4426950408889634)
HIDDEN = tl.constexpr(-10000 * 1.4426950408889634)


@triton.jit
def row_of(slot, ww):
    """Return ``slot // ww`` by a product, which is exact for up to 256 slots and cheaper than a division."""
    return (slot * ((65535 + ww) // ww)) >> 16


@triton.jit
def unhoisted(ww, number, EDGE: tl.constexpr):
    """Return ``ww``, which looks to the compiler as if it depended on the window's number: fewer than 2**30.

    Without this, edge kernels compute rows, columns and regions of slots once, before the loop over windows. These
    fill the registers, and the tiles are spilled.
    """
    return ww + (number >> 30) if EDGE else ww


@triton.jit
def interior_side(length, side, shift):
    """Return how many windows along an axis are interior."""
    return tl.maximum(length - shift, 0) // side


@triton.jit
def locate(number, H, W, wh, ww, sh, sw, EDGE: tl.constexpr, OWN_SIZES: tl.constexpr):
    """Return the image (int64), row and column of a window, by its number among those of its kind in all images.

    Edge windows of an image are numbered row by row, first those below the interior ones, then those beside them. With
    ``OWN_SIZES`` every window is an edge window.
    """
    nh, nw = tl.cdiv(H, wh), tl.cdiv(W, ww)
    ih, iw = interior_side(H, wh, sh), interior_side(W, ww, sw)
    if OWN_SIZES:
        ih, iw = ih * 0, iw * 0
    if EDGE:
        each = nh * nw - ih * iw
        image = number // each
        rest = number - image * each
        below, beside = (nh - ih) * nw, tl.maximum(nw - iw, 1)
        row = tl.where(rest < below, ih + rest // nw, (rest - below) // beside)
        col = tl.where(rest < below, rest % nw, iw + (rest - below) % beside)
    else:
        image = number // (ih * iw)
        row = number // iw - image * ih
        col = number % iw
    return image.to(tl.int64), row, col


@triton.jit
def tokens_at(slot, row, col, H, W, wh, ww, sh, sw, EDGE: tl.constexpr):
    """Return, for each slot of a window, its row and column in the map, its token, and whether there is one."""
    r = row_of(slot, ww)
    y = row * wh + r + sh
    x = col * ww + slot - r * ww + sw
    real = slot < wh * ww
    if EDGE:
        padded_h, padded_w = tl.cdiv(H, wh) * wh, tl.cdiv(W, ww) * ww
        y = tl.where(y >= padded_h, y - padded_h, y)
        x = tl.where(x >= padded_w, x - padded_w, x)
        real = real & (y < H) & (x < W)
    return y, x, y * W + x, real


@triton.jit
def regions_at(slot, row, col, H, W, wh, ww, sh, sw):
    """Return the part of the map that each slot comes from: after the shift the last windows hold several."""
    last_rows = tl.where(row == tl.cdiv(H, wh) - 1, wh - sh, wh)
    last_cols = tl.where(col == tl.cdiv(W, ww) - 1, ww - sw, ww)
    return (slot >= last_rows * ww).to(tl.int32) + 2 * (slot - row_of(slot, ww) * ww >= last_cols).to(tl.int32)


@triton.jit
def hidden_at(y, x, real, sizes, image, OWN_SIZES: tl.constexpr):
    """Return which slots hold padding: of windows, and with ``OWN_SIZES`` of the batch."""
    hidden = real == 0
    if OWN_SIZES:
        hidden = hidden | (y >= tl.load(sizes + 2 * image)) | (x >= tl.load(sizes + 2 * image + 1))
    return hidden


@triton.jit
def load_tile(base, token, stride, real, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load (slots, BLOCK_D) channels of a head; zeros where there is no token."""
    d = tl.arange(0, BLOCK_D)
    return tl.load(base + token[:, None] * stride + d[None, :], mask=real[:, None] & (d < D)[None, :], other=0.)


@triton.jit
def store_tile(base, token, stride, real, tile, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store (slots, BLOCK_D) channels of a head where there is a token."""
    d = tl.arange(0, BLOCK_D)
    tl.store(base + token[:, None] * stride + d[None, :], tile.to(base.dtype.element_ty),
             mask=real[:, None] & (d < D)[None, :])


@triton.jit
def fill_padding(tile, real, value, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Put ``value`` (D,) where there is no token."""
    d = tl.arange(0, BLOCK_D)
    row = tl.load(value + d, mask=d < D, other=0.).to(tile.dtype)
    return tl.where(real[:, None], tile, row[None, :])


@triton.jit
def load_keys(base, pad, at, token, real, C, D: tl.constexpr, BLOCK_D: tl.constexpr, HAS_PAD: tl.constexpr):
    """Load keys and values (slots, BLOCK_D); ``base`` is where the queries of the image and head start."""
    k = load_tile(base + C, token, 3 * C, real, D, BLOCK_D)
    v = load_tile(base + 2 * C, token, 3 * C, real, D, BLOCK_D)
    if HAS_PAD:
        k = fill_padding(k, real, pad + C + at, D, BLOCK_D)
        v = fill_padding(v, real, pad + 2 * C + at, D, BLOCK_D)
    return k, v


@triton.jit
def bias_tile(table, head, heads, query, key, wh, ww, ACC: tl.constexpr, HAS_TABLE: tl.constexpr):
    """Look up the bias of (queries, keys) slots, in units of log(2); -inf for keys that are no slots."""
    own = (key < wh * ww)[None, :]
    if HAS_TABLE:
        rq, rk = row_of(query, ww), row_of(key, ww)
        # The row of offset (dr, dc), (dr + wh - 1) * (2 ww - 1) + dc + ww - 1, as a number of the query less one of the
        # key.
        of_query = (rq + wh - 1) * (2 * ww - 1) + query - rq * ww + ww - 1
        of_key = rk * (2 * ww - 1) + key - rk * ww
        at = (of_query[:, None] - of_key[None, :]) * heads + head
        bias = tl.load(table + at, mask=(query < wh * ww)[:, None] & own, other=0.).to(ACC) * LOG2E
    else:
        bias = tl.zeros([query.shape[0], key.shape[0]], ACC)
    return tl.where(own, bias, float('-inf'))


@triton.jit
def mask_logits(logits, region_q, region_k, hidden_k, HIDE: tl.constexpr):
    """Add the masks of an edge window to its logits."""
    logits = tl.where(region_q[:, None] != region_k[None, :], logits + MASKED, logits)
    if HIDE:
        logits = tl.where(hidden_k[None, :], logits + HIDDEN, logits)
    return logits
