"""Windows: how a feature map is padded, shifted and cut, as index arithmetic.

The textbook way moves the features five times per block: pad, roll, partition, and back: merge, roll, crop. All of
that is one permutation that depends on shapes only. A :class:`WindowPlan` holds it, so that a block needs one gather
on the way in and one on the way out. ``tests/reference.py`` does it the textbook way, and the tests hold the two equal.

Letters used in shapes: ``B`` images, ``H, W`` the feature map in tokens, ``L = H * W``, ``nW`` windows of all
images together, ``N`` tokens in a window, ``C`` channels.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import fake_mode, is_exporting, is_tracing

Pair = Tuple[int, int]

# What is added to the logit of a pair of tokens that must not meet. The value of the Swin code (and of mmdet): far
# below any logit that a trained model makes, and finite in float16.
MASKED_LOGIT = -100.0
# The same for padding where it is hidden: what lies there may be anything, so further below.
HIDDEN_LOGIT = -10000.0

# Plans kept: a forward uses at most two per stage (shifted and not), so this is four image sizes of a four-stage
# Swin. Training on COCO meets thousands of sizes, and building a plan costs far less than the block that uses it.
MAX_CACHED_PLANS = 32
# A mask that many windows of a plan share is kept with it up to this many tokens: 256 KB in float32.
MAX_KEPT_MASK = 256


@dataclass(frozen=True)
class WindowGroup:
    """Windows that follow each other in a plan and share what may attend to what.

    Attributes:
        count: how many windows.
        region: (1 or count, N) int64, for each slot the part of the map that it comes from: tokens of different parts
            must not meet. None if all may.
        hidden: (1 or count, N) bool, which slots hold hidden padding. None if none does.
        keeps_mask: whether a mask that all its windows share is kept, if it is small. A plan has at most three of them.
    """

    count: int
    region: Optional[Tensor] = None
    hidden: Optional[Tensor] = None
    keeps_mask: bool = False
    _masks: Dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def shares_mask(self) -> bool:
        """Whether one mask serves all its windows."""
        return self.region is None or self.region.shape[0] == 1

    def part(self, some: slice) -> WindowGroup:
        """Some of its windows."""
        own = not self.shares_mask
        return WindowGroup(some.stop - some.start, *(of[some] if own and of is not None else of
                                                     for of in (self.region, self.hidden)))

    def to(self, device: torch.device) -> WindowGroup:
        """The same group on a device."""
        return WindowGroup(self.count, *(None if of is None else of.to(device) for of in (self.region, self.hidden)),
                           self.keeps_mask)

    def mask(self, dtype: torch.dtype, room: int = 0) -> Optional[Tensor]:
        """What to add to the logits: 0 where they may attend.

        Args:
            dtype: wanted.
            room: zeros behind each row.

        Returns:
            (1 or count, 1, N, N + room) [query, key]; None if all may attend to all. Do not write to it: it may
            be kept.
        """
        if self.region is None:
            return None
        if not self.keeps_mask or is_tracing() or not self.shares_mask or self.region.shape[1] > MAX_KEPT_MASK:
            return self._make_mask(dtype, room)
        if (dtype, room) not in self._masks:
            with torch.inference_mode(False), torch.no_grad():
                self._masks[dtype, room] = self._make_mask(dtype, room)
        return self._masks[dtype, room]

    def _make_mask(self, dtype: torch.dtype, room: int) -> Tensor:
        mask = (self.region[:, None, :] != self.region[:, :, None]).to(dtype) * MASKED_LOGIT
        if self.hidden is not None:
            mask = mask + self.hidden[:, None, :].to(dtype) * HIDDEN_LOGIT
        return (F.pad(mask, (0, room)) if room else mask).unsqueeze(1)


class Cut(NamedTuple):
    """How maps are cut into windows, in the words of :func:`window_plan`."""

    size: Pair
    window: Pair
    shift: Pair
    hide_padding: bool
    valid: Optional[Sequence[Pair]]

    def plan(self, batch: int, device: torch.device) -> WindowPlan:
        """The plan for so many images."""
        return window_plan(batch, self.size, self.window, self.shift, device, self.hide_padding, self.valid)


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Where every token of a batch goes when it is cut into windows.

    Windows are ordered by what their tokens may attend to. First those, of all images, that need no mask. The cyclic
    shift mixes only the last row and the last column of windows, each in one way: these are three groups with a mask
    each, so no mask of all windows is ever made. Where padding is hidden each window may be masked in its own way.

    Attributes:
        window: height and width of a window in tokens.
        gather: (nW * N,) int64, for each slot in a window the token in ``(B * L)`` that it holds; for a slot of
            padding some valid token, to be overwritten.
        scatter: (B * L,) int64, for each token its slot.
        outside: (nW * N,) bool, which slots hold padding. None if none does.
        padding: (P,) int64, these slots. None in a traced plan too, where P is not known.
        groups: of windows, in their order.
    """

    window: Pair
    gather: Tensor
    scatter: Tensor
    outside: Optional[Tensor]
    padding: Optional[Tensor]
    groups: Tuple[WindowGroup, ...]

    @property
    def num_windows(self) -> int:
        """Windows of all images together."""
        return self.gather.shape[0] // (self.window[0] * self.window[1])


def partition(tokens: Tensor, plan: WindowPlan, fill: Optional[Tensor] = None) -> Tensor:
    """Cut a batch of feature maps into windows.

    Args:
        tokens: (B * L, C) the tokens of all images, row by row.
        plan: made for the same B, H and W.
        fill: (C,) what padding holds. Default: zeros.

    Returns:
        (nW, N, C) windows, contiguous.
    """
    windows = _select(tokens, plan.gather, plan.scatter, None)
    if plan.outside is not None:
        fill = windows.new_zeros(windows.shape[-1]) if fill is None else fill.to(windows.dtype)
        if plan.padding is None:
            windows = torch.where(plan.outside[:, None], fill, windows)
        else:
            windows = windows.index_copy_(0, plan.padding, fill.expand(plan.padding.shape[0], -1))
    return windows.view(-1, plan.window[0] * plan.window[1], windows.shape[-1])


def merge(windows: Tensor, plan: WindowPlan) -> Tensor:
    """Undo :func:`partition`: put the tokens back in their places and drop the padding.

    Args:
        windows: (nW, N, C).
        plan: the plan that made the windows.

    Returns:
        (B * L, C) tokens.
    """
    return _select(windows.reshape(-1, windows.shape[-1]), plan.scatter, plan.gather, plan.outside)


def _select(rows: Tensor, there: Tensor, back: Tensor, unused: Optional[Tensor]) -> Tensor:
    recorded = torch.is_grad_enabled() and rows.requires_grad and not is_exporting()
    return _Select.apply(rows, there, back, unused) if recorded else rows.index_select(0, there)


class _Select(torch.autograd.Function):
    """``rows.index_select(0, there)`` for an index whose inverse is known.

    So the gradient is one more gather, where autograd would sort the index and add rows one by one. ``back`` has an
    entry for each row of the input; those marked in ``unused`` were not selected and get no gradient.
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
            grad = grad.masked_fill(unused[:, None], 0)
        return grad, None, None, None


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
    models, threads and copies is safe; on CUDA, between streams that wait for each other.

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
    request = batch, size, tuple(window), tuple(shift), torch.device(device), hide_padding, own
    return build_plan(*request) if is_tracing() else _cached_plan(fake_mode(), *request)


@lru_cache(maxsize=MAX_CACHED_PLANS)
def _cached_plan(_: Any, *request: Any) -> WindowPlan:
    # A plan first needed under inference_mode must serve a later training step too.
    with torch.inference_mode(False), torch.no_grad():
        return build_plan(*request)


def build_plan(batch: int, size: Pair, window: Pair, shift: Pair, device: torch.device, hide_padding: bool = False,
               valid: Optional[Sequence[Pair]] = None) -> WindowPlan:
    """:func:`window_plan` without the cache.

    Arithmetic on sizes, which may be symbols: nothing is counted in a tensor, so no GPU is waited for. Only where
    padding is hidden are windows looked at one by one; that is done on the CPU.
    """
    home = device if not hide_padding or is_tracing() else torch.device('cpu')
    rows, cols = (_Axis(*axis, home) for axis in zip(size, window, shift))
    order, groups = (_groups_by_content(batch, rows, cols, valid) if hide_padding else
                     _groups_by_place(batch, rows, cols))
    area, length = window[0] * window[1], size[0] * size[1]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=home))

    def slots_of(down: Tensor, across: Tensor) -> Tensor:
        """Of some places down and across in the padded maps, their slots: (B * places,)."""
        (row, row_offset), (col, col_offset) = rows.window_of(down), cols.window_of(across)
        first = rank.view(batch, rows.windows, cols.windows)[:, row][:, :, col] * area
        return (first + row_offset[:, None] * window[1] + col_offset).flatten()

    scatter = slots_of(rows.places(), cols.places())

    # Of every slot (nW, N) its token.
    image = torch.arange(batch, device=home)[:, None, None, None, None] * length
    token = image + rows.place[:, None, :, None] * size[1] + cols.place[None, :, None, :]
    outside = (rows.place >= size[0])[:, None, :, None] | (cols.place >= size[1])[None, :, None, :]
    outside = outside.expand(token.shape)
    gather = token.masked_fill(outside, 0).reshape(-1, area)[order].flatten()
    padding, outside = None, outside.reshape(-1, area)[order].flatten()
    if not is_tracing():
        below = slots_of(rows.padding(), torch.cat([cols.places(), cols.padding()]))
        padding = torch.cat([below, slots_of(rows.places(), cols.padding())]).to(device)
        padding, outside = (padding, outside) if padding.shape[0] else (None, None)
    return WindowPlan(window, gather.to(device), scatter.to(device), None if outside is None else outside.to(device),
                      padding, tuple(group.to(device) for group in groups))


class _Axis:
    """One axis of the map, padded, shifted and cut into windows.

    Attributes:
        windows: their number.
        place: (windows, side) int64, the place on the padded axis that each slot holds; from ``length`` on: padding.
        region: (windows, side) int64. After the shift the last window holds two parts that were apart: they are
            regions 1 and 2, and only tokens of one region may attend to each other (Swin, section 3.2, figure 4).
        mixed: whether the shift mixes the last window.
    """

    def __init__(self, length: int, side: int, shift: int, device: torch.device) -> None:
        self.length, self.side, self.shift, self.device = length, side, shift, device
        self.mixed = shift > 0
        self.windows = (length + side - 1) // side
        self.padded = self.windows * side
        slot = torch.arange(self.padded, device=device)
        place = slot + shift
        self.place = torch.where(place < self.padded, place, place - self.padded).view(-1, side)
        region = torch.zeros_like(slot)
        if shift:
            region = (slot >= self.padded - side).long() + (slot >= self.padded - shift).long()
        self.region = region.view(-1, side)

    def places(self) -> Tensor:
        """(length,) int64, those of the map."""
        return torch.arange(self.length, device=self.device)

    def padding(self) -> Tensor:
        """(padded - length,) int64, those behind it."""
        return torch.arange(self.length, self.padded, device=self.device)

    def window_of(self, places: Tensor) -> Tuple[Tensor, Tensor]:
        """The window of each place, and where in it."""
        slot = places - self.shift
        slot = torch.where(slot < 0, slot + self.padded, slot)
        window = torch.div(slot, self.side, rounding_mode='floor')
        return window, slot - window * self.side


Groups = Tuple[Tensor, List[WindowGroup]]


def _groups_by_place(batch: int, rows: _Axis, cols: _Axis) -> Groups:
    """The windows' order, (nW,) int64 numbers in reading order, and groups, where padding is attended to."""
    number = torch.arange(batch * rows.windows * cols.windows, device=rows.place.device)
    number = number.view(batch, rows.windows, cols.windows)
    whole, last = slice(None, -1), slice(-1, None)
    parts = [(row, col) for row in ((whole, last) if rows.mixed else (slice(None), ))
             for col in ((whole, last) if cols.mixed else (slice(None), ))]
    if is_exporting():  # one group, as an exported graph cannot do without those that are empty at some sizes
        region = _pairs(rows.region, cols.region)
        return number.flatten(), [WindowGroup(number.numel(), region.repeat(batch, 1) if len(parts) > 1 else None)]
    order, groups = [], []
    for row, col in parts:
        members = number[:, row, col].contiguous().view(-1)
        if is_tracing() or members.shape[0]:
            masked = last in (row, col)
            region = _pairs(rows.region[row][-1:], cols.region[col][-1:]) if masked else None
            order.append(members)
            groups.append(WindowGroup(members.shape[0], region, keeps_mask=True))
    return torch.cat(order), groups


def _pairs(rows: Tensor, cols: Tensor) -> Tensor:
    """Regions of the windows' rows (n, h) and columns (m, w) -> of the windows (n * m, h * w)."""
    return (rows[:, None, :, None] * 3 + cols[None, :, None, :]).flatten(2).flatten(0, 1)


def _groups_by_content(batch: int, rows: _Axis, cols: _Axis, valid: Optional[Sequence[Pair]]) -> Groups:
    """The same where padding is hidden: a group without a mask, and one where each window has its own."""
    region = _pairs(rows.region, cols.region).repeat(batch, 1)
    height, width = rows.length, cols.length
    if valid is not None:
        height, width = (torch.tensor(side, device=region.device).view(-1, 1, 1, 1, 1) for side in zip(*valid))
    hidden = (rows.place[:, None, :, None] >= height) | (cols.place[None, :, None, :] >= width)
    hidden = hidden.expand(batch, -1, -1, -1, -1).reshape(region.shape)
    if is_tracing():
        return torch.arange(region.shape[0], device=region.device), [WindowGroup(region.shape[0], region, hidden)]
    mixed = (region != region[:, :1]).any(1) | (hidden != hidden[:, :1]).any(1)
    order = torch.argsort(mixed, stable=True)
    count = int(mixed.sum())
    masked = order[order.shape[0] - count:]
    groups = [WindowGroup(order.shape[0] - count), WindowGroup(count, region[masked], hidden[masked])]
    return order, [group for group in groups if group.count]
