"""Windows: how a feature map is padded, shifted and partitioned, as index arithmetic.

The textbook way moves the features five times per block: pad, roll, partition, and back: reverse, roll, crop. All of
that is one permutation that depends on shapes only. A :class:`WindowPlan` holds it, so that a block needs one gather
on the way in and one on the way out. ``tests/reference.py`` does it the textbook way, and the tests compare the two.

Letters used in shapes: ``B`` images, ``H, W`` the feature map in tokens, ``L = H * W``, ``nW`` windows of all
images together, ``N`` tokens in a window, ``C`` channels.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .masks import WindowGroup
from .runtime import is_exporting, is_tracing, tensor_cache

# A forward uses at most two plans per stage (shifted and not), so this is four image sizes of a four-stage Swin.
# Training on COCO has thousands of sizes, and building a plan costs far less than the block that uses it.
MAX_CACHED_PLANS = 32
# Height and width, or down and across, in this order: of images, maps, windows, strides, shifts.
Pair = Tuple[int, int]


class WindowSpec(NamedTuple):
    """The partition of a feature map: everything that a plan depends on, besides batch and device.

    The map is padded at the bottom and right to whole windows, then rolled up and left by ``shift`` (in this order,
    as mmdet does it; timm rolls first).

    Attributes:
        size: height and width of the map in tokens, at least 1.
        window: height and width of a window in tokens, at least 1.
        shift: cyclic shift (down, right) in tokens, each from 0 to below the window's side.
        hide_padding: keep tokens from attending to padding; otherwise padding is attended to, as in mmdet.
        valid: with ``hide_padding``, for each image the height and width in tokens of its own part of the map, top
            left; the rest is padding too. Default: the whole map.
    """

    size: Pair
    window: Pair
    shift: Pair = (0, 0)
    hide_padding: bool = False
    valid: Optional[Sequence[Pair]] = None


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The place of every token of a batch in its window.

    Windows are ordered by their masks. First those, of all images, that need none. The cyclic shift mixes only the
    last row and the last column of windows, each in one way: these are three groups with a mask each, so no mask of
    all windows is made. With hidden padding, each window may have its own mask.

    Attributes:
        spec: the partition.
        gather: (nW * N,) int64, for each slot in a window the token in ``(B * L)`` that it holds; for a slot of
            padding some valid token, to be overwritten.
        inverse: (B * L,) int64, for each token its slot.
        pad_mask: (nW * N,) bool, which slots hold padding. None if none does.
        pad_slots: (P,) int64, these slots. None in a traced plan too, where P is not known.
        groups: the windows' groups, in order.
    """

    spec: WindowSpec
    gather: Tensor
    inverse: Tensor
    pad_mask: Optional[Tensor]
    pad_slots: Optional[Tensor]
    groups: Tuple[WindowGroup, ...]

    @property
    def window(self) -> Pair:
        """Return height and width of a window in tokens."""
        return self.spec.window

    @property
    def area(self) -> int:
        """Return tokens in a window: N."""
        return self.spec.window[0] * self.spec.window[1]

    @property
    def num_windows(self) -> int:
        """Return the number of windows of all images together."""
        return self.gather.shape[0] // self.area


def window_plan(batch: int,
                size: Pair,
                window: Pair,
                shift: Pair,
                device: torch.device,
                hide_padding: bool = False,
                valid: Optional[Sequence[Pair]] = None) -> WindowPlan:
    """Return the plan for a batch of feature maps, from a bounded cache.

    Plans hold indices and masks only, no parameters, so sharing them between models, threads and copies is safe; on
    CUDA, between streams that wait for each other.

    Args:
        batch: images, at least 1.
        size, window, shift, hide_padding, valid: see :class:`WindowSpec`.
        device: where the plan's tensors live.

    Returns:
        The plan. Do not write to its tensors: they are shared.
    """
    own = None
    if hide_padding and valid is not None:
        own = tuple(tuple(pair) for pair in valid)
        own = None if own == (tuple(size), ) * batch else own
    spec = WindowSpec(tuple(size), tuple(window), tuple(shift), hide_padding, own)
    return build_plan(spec, batch, torch.device(device))


def window_partition(tokens: Tensor, plan: WindowPlan, pad_value: Optional[Tensor] = None) -> Tensor:
    """Partition a batch of feature maps into windows.

    Args:
        tokens: (B * L, C) the tokens of all images in reading order.
        plan: made for the same B, H and W.
        pad_value: (C,) the value of padding. Default: zeros.

    Returns:
        (nW, N, C) windows, contiguous.
    """
    windows = _select(tokens, plan.gather, plan.inverse, None)
    if plan.pad_mask is not None:
        value = windows.new_zeros(windows.shape[-1]) if pad_value is None else pad_value.to(windows.dtype)
        if plan.pad_slots is None:
            windows = torch.where(plan.pad_mask[:, None], value, windows)
        else:
            windows = windows.index_copy_(0, plan.pad_slots, value.expand(plan.pad_slots.shape[0], -1))
    return windows.view(-1, plan.area, windows.shape[-1])


def window_reverse(windows: Tensor, plan: WindowPlan) -> Tensor:
    """Undo :func:`window_partition`: put the tokens back in reading order and drop the padding.

    Args:
        windows: (nW, N, C).
        plan: the plan that made the windows.

    Returns:
        (B * L, C) tokens.
    """
    return _select(windows.reshape(-1, windows.shape[-1]), plan.inverse, plan.gather, plan.pad_mask)


def _select(x: Tensor, index: Tensor, inverse: Tensor, unused: Optional[Tensor]) -> Tensor:
    recorded = torch.is_grad_enabled() and x.requires_grad and not is_exporting()
    return _Select.apply(x, index, inverse, unused) if recorded else x.index_select(0, index)


class _Select(torch.autograd.Function):
    """``x.index_select(0, index)`` with an index that has an inverse.

    So the gradient is one more gather, where autograd would sort the index and add rows one by one. ``inverse`` has an
    entry for each row of ``x``; rows marked in ``unused`` were not selected and get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, unused: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(inverse, unused)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        inverse, unused = ctx.saved_tensors
        grad = grad.index_select(0, inverse)
        if unused is not None:
            grad = grad.masked_fill(unused[:, None], 0)
        return grad, None, None, None


@tensor_cache(MAX_CACHED_PLANS)
def build_plan(spec: WindowSpec, batch: int, device: torch.device) -> WindowPlan:
    """Build the plan of :func:`window_plan`.

    Arithmetic on sizes, which may be symbols: nothing is copied to or from the device, or counted in a tensor, so the
    host never waits for a GPU.
    """
    size, window, shift, hide_padding, valid = spec
    rows, cols = (_Axis(*axis, device) for axis in zip(size, window, shift))
    order, groups = (_groups_by_content(batch, rows, cols, valid) if hide_padding else
                     _groups_by_place(batch, rows, cols))
    area, length = window[0] * window[1], size[0] * size[1]
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=device))

    def slots_of(down: Tensor, across: Tensor) -> Tensor:
        """Return the slots of some places down and across in the padded maps: (B * places,)."""
        (row, row_offset), (col, col_offset) = rows.window_of(down), cols.window_of(across)
        first = rank.view(batch, rows.windows, cols.windows)[:, row][:, :, col] * area
        return (first + row_offset[:, None] * window[1] + col_offset).flatten()

    inverse = slots_of(rows.places(), cols.places())

    # The token of every slot (nW, N).
    image = torch.arange(batch, device=device)[:, None, None, None, None] * length
    token = image + rows.place[:, None, :, None] * size[1] + cols.place[None, :, None, :]
    pad_mask = (rows.place >= size[0])[:, None, :, None] | (cols.place >= size[1])[None, :, None, :]
    pad_mask = pad_mask.expand(token.shape)
    gather = token.masked_fill(pad_mask, 0).reshape(-1, area)[order].flatten()
    pad_slots, pad_mask = None, pad_mask.reshape(-1, area)[order].flatten()
    if not is_tracing():
        below = slots_of(rows.padding(), torch.cat([cols.places(), cols.padding()]))
        pad_slots = torch.cat([below, slots_of(rows.places(), cols.padding())])
        pad_slots, pad_mask = (pad_slots, pad_mask) if pad_slots.shape[0] else (None, None)
    return WindowPlan(spec, gather, inverse, pad_mask, pad_slots, tuple(groups))


class _Axis:
    """One axis of the map, padded, shifted and partitioned.

    Attributes:
        windows: their number.
        place: (windows, side) int64, the place on the padded axis that each slot holds; from ``length`` on padding.
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
        """Return (length,) int64, the places of the map."""
        return torch.arange(self.length, device=self.device)

    def padding(self) -> Tensor:
        """Return (padded - length,) int64, the places behind the map."""
        return torch.arange(self.length, self.padded, device=self.device)

    def window_of(self, places: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the window of each place, and the offset in it."""
        slot = places - self.shift
        slot = torch.where(slot < 0, slot + self.padded, slot)
        window = torch.div(slot, self.side, rounding_mode='floor')
        return window, slot - window * self.side

    def kinds(self, valid: int) -> Counter[Tuple[bool, str]]:
        """Count windows by whether the shift mixes them, and whether 'none', 'some' or 'all' of a window is hidden.

        Args:
            valid: the places of the map from which on the rest is hidden.
        """
        found: Counter[Tuple[bool, str]] = Counter()
        for window in range(self.windows):
            start, is_last = window * self.side + self.shift, window == self.windows - 1
            stop = min(start + self.side, self.padded)
            hidden = max(0, stop - max(start, valid)) + is_last * max(0, self.shift - valid)
            kind = 'none' if hidden == 0 else 'all' if hidden == self.side else 'some'
            found[self.mixed and is_last, kind] += 1
        return found


Groups = Tuple[Tensor, List[WindowGroup]]


def _groups_by_place(batch: int, rows: _Axis, cols: _Axis) -> Groups:
    """Return the windows' order, (nW,) int64 numbers in reading order, and groups, where padding is attended to."""
    number = torch.arange(batch * rows.windows * cols.windows, device=rows.place.device)
    number = number.view(batch, rows.windows, cols.windows)
    whole, last = slice(None, -1), slice(-1, None)
    parts = [(row, col) for row in ((whole, last) if rows.mixed else (slice(None), ))
             for col in ((whole, last) if cols.mixed else (slice(None), ))]
    if is_exporting():  # one group, since some groups are empty at some sizes
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
    """Combine regions of the windows' rows (n, h) and columns (m, w) to those of windows (n * m, h * w)."""
    return (rows[:, None, :, None] * 3 + cols[None, :, None, :]).flatten(2).flatten(0, 1)


def _groups_by_content(batch: int, rows: _Axis, cols: _Axis, valid: Optional[Sequence[Pair]]) -> Groups:
    """Return the same where padding is hidden: a group without a mask, and one where each window has its own."""
    region = _pairs(rows.region, cols.region).repeat(batch, 1)
    # One size for all images, as a list of that length would fix the batch of an exported graph.
    sizes = [(rows.length, cols.length)] if valid is None else valid
    below = torch.stack([rows.place >= height for height, _ in sizes])
    across = torch.stack([cols.place >= width for _, width in sizes])
    hidden = below[:, :, None, :, None] | across[:, None, :, None, :]
    hidden = hidden.expand(batch, -1, -1, -1, -1).reshape(region.shape)
    if is_tracing():
        return torch.arange(region.shape[0], device=region.device), [WindowGroup(region.shape[0], region, hidden)]
    mixed = (region != region[:, :1]).any(1) | (hidden != hidden[:, :1]).any(1)
    order = torch.argsort(mixed, stable=True)
    count = sum(_count_mixed(rows, cols, own) for own in sizes) * (batch if valid is None else 1)
    masked = order[order.shape[0] - count:]
    groups = [WindowGroup(order.shape[0] - count), WindowGroup(count, region[masked], hidden[masked])]
    return order, [group for group in groups if group.count]


def _count_mixed(rows: _Axis, cols: _Axis, valid: Pair) -> int:
    """Count the windows of an image that need a mask: arithmetic on sizes, since a count on a GPU is waited for."""
    count = 0
    for (row_mixed, row_hidden), row_number in rows.kinds(valid[0]).items():
        for (col_mixed, col_hidden), col_number in cols.kinds(valid[1]).items():
            uniform = 'all' in (row_hidden, col_hidden) or row_hidden == col_hidden == 'none'
            count += (row_mixed or col_mixed or not uniform) * row_number * col_number
    return count
