"""Windows: how a feature map is padded, shifted and cut, as index arithmetic.

The textbook way moves the features five times per block: pad, roll, partition, and back: merge, roll, crop. All of
that is one permutation that depends on shapes only. A :class:`WindowPlan` holds it, so that a block needs one gather
on the way in and one on the way out. ``tests/reference.py`` does it the textbook way, and the tests hold the two equal.

Letters used in shapes: ``B`` images, ``H, W`` the feature map in tokens, ``L = H * W``, ``nW`` windows of all
images together, ``N`` tokens in a window, ``C`` channels.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

Pair = Tuple[int, int]

# What is added to the logit of a pair of tokens that must not meet. The value of the Swin code (and of mmdet): far
# below any logit that a trained model makes, and finite in float16.
MASKED_LOGIT = -100.0
# The same for padding where it is hidden: what lies there may be anything, so further below.
HIDDEN_LOGIT = -10000.0

# Plans kept: a forward uses at most two per stage (shifted and not), so this is four image sizes of a four-stage
# Swin. Training on COCO meets thousands of sizes, and building a plan costs far less than the block that uses it.
MAX_CACHED_PLANS = 32


@dataclass(frozen=True)
class WindowPlan:
    """Where every token of a batch goes when it is cut into windows.

    Windows are ordered: first those whose tokens may all attend to each other, over all images, then those that need
    a mask: where the cyclic shift has put together parts of the map that are not neighbours, or where padding is
    hidden. So most windows need no mask at all.

    Attributes:
        window: height and width of a window in tokens.
        gather: (nW * N,) int64, for each slot in a window the token in ``(B * L)`` that it holds; for a slot of
            padding some valid token, to be overwritten.
        scatter: (B * L,) int64, for each token its slot.
        padding: (P,) int64, the slots that hold padding, or None if there are none.
        region: (M, N) int64, for each slot of the last M windows, those that need a mask, the part of the map that it
            comes from; None if no window needs one.
        hidden: (M, N) bool, which of these slots hold hidden padding.
    """

    window: Pair
    gather: Tensor
    scatter: Tensor
    padding: Optional[Tensor]
    region: Optional[Tensor]
    hidden: Optional[Tensor]

    @property
    def num_windows(self) -> int:
        """Windows of all images together."""
        return self.gather.numel() // (self.window[0] * self.window[1])

    @property
    def num_unmasked(self) -> int:
        """How many windows, from the first on, need no mask."""
        return self.num_windows - (0 if self.region is None else self.region.shape[0])

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(M, 1, N, N) what to add to the logits [query, key] of the last M windows: 0 where they may attend.

        Made anew for each call: kept in the cache it would take N times the memory of the rest of the plan.
        """
        apart = (self.region[:, None, :] != self.region[:, :, None]).to(dtype).mul_(MASKED_LOGIT)
        return apart.add_(self.hidden[:, None, :].to(dtype), alpha=HIDDEN_LOGIT).unsqueeze(1)


def partition(tokens: Tensor, plan: WindowPlan, fill: Optional[Tensor] = None) -> Tensor:
    """Cut a batch of feature maps into windows.

    Args:
        tokens: (B * L, C) the tokens of all images, row by row.
        plan: made for the same B, H and W.
        fill: (C,) what padding holds. Default: zeros.

    Returns:
        (nW, N, C) windows, contiguous.
    """
    windows = _Select.apply(tokens, plan.gather, plan.scatter, None)
    if plan.padding is not None:
        if fill is None:
            windows = windows.index_fill_(0, plan.padding, 0)
        else:
            rows = fill.to(windows.dtype).expand(plan.padding.numel(), -1)
            windows = windows.index_copy_(0, plan.padding, rows)
    return windows.view(plan.num_windows, -1, tokens.shape[-1])


def merge(windows: Tensor, plan: WindowPlan) -> Tensor:
    """Undo :func:`partition`: put the tokens back in their places and drop the padding.

    Args:
        windows: (nW, N, C).
        plan: the plan that made the windows.

    Returns:
        (B * L, C) tokens.
    """
    return _Select.apply(windows.reshape(-1, windows.shape[-1]), plan.scatter, plan.gather, plan.padding)


class _Select(torch.autograd.Function):
    """``rows.index_select(0, there)`` for an index whose inverse is known.

    So the gradient is one more gather, where autograd would sort the index and add rows one by one. ``back`` has an
    entry for each row of the input; those listed in ``unused`` were not selected and get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor, unused: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(back, unused)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        back, unused = ctx.saved_tensors
        grad = grad.index_select(0, back)
        if unused is not None:
            grad.index_fill_(0, unused, 0)
        return grad, None, None, None


@torch.compiler.disable  # a compiler would trace the arithmetic below, and again for each size
def window_plan(batch: int,
                size: Pair,
                window: Pair,
                shift: Pair,
                device: torch.device,
                hide_padding: bool = False,
                valid: Optional[Sequence[Pair]] = None) -> WindowPlan:
    """The plan for a batch of feature maps, from a bounded cache.

    The map is padded at the bottom and right to whole windows, then rolled up and left by ``shift`` (in this order,
    as mmdet does it; timm rolls first). Plans hold indices and masks only, no parameters, so sharing them between
    models, threads and copies is safe.

    Args:
        batch: images, at least 1.
        size: height and width of the map in tokens, at least 1.
        window: height and width of a window in tokens, at least 1.
        shift: cyclic shift (down, right) in tokens, each from 0 to below the window's side.
        device: where the plan's tensors live.
        hide_padding: keep tokens from attending to padding; otherwise padding is attended to, as in mmdet.
        valid: with ``hide_padding``, for each image the height and width in tokens of its own part of the map, top
            left; the rest is padding too. Default: the whole map.

    Returns:
        The plan. Do not write to its tensors: they are shared.
    """
    size, own = tuple(size), None
    if hide_padding and valid is not None:
        own = tuple(tuple(pair) for pair in valid)
        own = None if own == (size, ) * batch else own
    return _cached_plan(batch, size, tuple(window), tuple(shift), torch.device(device), hide_padding, own)


@lru_cache(maxsize=MAX_CACHED_PLANS)
def _cached_plan(*request: Any) -> WindowPlan:
    # A plan first needed under inference_mode must serve a later training step too.
    with torch.inference_mode(False), torch.no_grad():
        return build_plan(*request)


def build_plan(batch: int, size: Pair, window: Pair, shift: Pair, device: torch.device, hide_padding: bool = False,
               valid: Optional[Sequence[Pair]] = None) -> WindowPlan:
    """:func:`window_plan` without the cache.

    Worked out on the CPU, where counting windows makes no GPU wait, and then moved.
    """
    (height, width), (rows, cols) = size, window
    area, length = rows * cols, height * width
    row, row_region = _axis(height, rows, shift[0])
    col, col_region = _axis(width, cols, shift[1])
    down, across = row[:, None, :, None], col[None, :, None, :]
    region = (row_region[:, None, :, None] * 3 + col_region[None, :, None, :]).reshape(1, -1, area)

    # (B, windows of an image in reading order, N)
    padded = ((down >= height) | (across >= width)).reshape(1, -1, area).expand(batch, -1, -1)
    token = (down * width + across).reshape(1, -1, area) + torch.arange(batch, device='cpu')[:, None, None] * length
    hidden = padded & hide_padding
    if valid is not None:
        own = torch.tensor(valid, device='cpu').view(batch, 2, 1, 1, 1, 1)
        hidden = ((down >= own[:, 0]) | (across >= own[:, 1])).reshape(batch, -1, area)
    mixed = (region != region[..., :1]).any(-1) | (hidden != hidden[..., :1]).any(-1)

    # (B * windows, N), the windows that need no mask first.
    order = torch.argsort(mixed.flatten(), stable=True)
    padded, token = padded.reshape(-1, area)[order].flatten(), token.view(-1, area)[order].flatten()
    masked = order[order.numel() - int(mixed.sum()):]
    if masked.numel():
        region = region.expand(batch, -1, -1).reshape(-1, area)[masked].to(device)
        hidden = hidden.expand(batch, -1, -1).reshape(-1, area)[masked].to(device)
    else:
        region = hidden = None
    padding = padded.nonzero().flatten()
    scatter = torch.empty(batch * length, dtype=torch.int64, device='cpu')
    scatter[token[~padded]] = (~padded).nonzero().flatten()
    return WindowPlan(window, token.masked_fill(padded, 0).to(device), scatter.to(device),
                      padding.to(device) if padding.numel() else None, region, hidden)


def _axis(length: int, window: int, shift: int) -> Tuple[Tensor, Tensor]:
    """One axis of the map, cut into windows.

    Returns:
        Two (windows, window) int64 tensors: the position that each slot holds (``>= length``: padding), and its
        region. After the shift the last window holds two parts that were apart: they are regions 1 and 2, and only
        tokens of one region may attend to each other (Swin, section 3.2, figure 4).
    """
    padded = -(-length // window) * window
    slot = torch.arange(padded, device='cpu')
    position = (slot + shift) % padded
    region = torch.zeros_like(slot)
    if shift:
        region[padded - window:] = 1
        region[padded - shift:] = 2
    return position.view(-1, window), region.view(-1, window)
