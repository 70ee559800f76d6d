"""Windows without their padding, for inference.

Windows at the border are padded; in small maps that can be more than half of all slots. The results of padding as a
query are dropped. As keys and values all padding is alike: zeros, which the projection maps to its bias. If its slots
have the logits ``s + b_1 .. s + b_p`` for a query, with ``s`` from the products and ``b_j`` from bias and mask, they
weigh as much as one slot with ``s + log(exp(b_1) + .. + exp(b_p))``. So a window keeps its tokens and one pad token
for all its padding, and the result is the same.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import HIDDEN_LOGIT, MASKED_LOGIT, WindowGroup, split
from ..runtime import tensor_cache
from ..windows import MAX_CACHED_PLANS, WindowPlan
from .chunks import recurring_chunks
from .linear import MIN_ROWS


class WindowBias:
    """The bias of whole windows, and its terms for pad tokens, computed once for all groups.

    Args:
        bias: (heads, N, N), of float32 at least, as its exponentials are computed.
    """

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    @cached_property
    def weights(self) -> Tuple[Tensor, Tensor]:
        """Return the largest bias of each query (heads, N, 1), and exp(bias - largest) of all pairs (heads, N, N)."""
        most = self.bias.amax(-1, keepdim=True)
        return most, (self.bias - most).exp_()


class Span(NamedTuple):
    """Consecutive rows or columns of a window with tokens: their indices among all, and among those with tokens."""

    whole: slice
    kept: slice


@dataclass(frozen=True)
class PadToken:
    """The last slot of a window, which stands for all its padding.

    Attributes:
        window: height and width of the whole window.
        spans: of its rows, and of its columns. Tokens are at their intersection, as a map is a rectangle.
        kept: (n - 1,) int64, the places of the other slots in the whole window.
        parts: (N, R) float32, 1 where a slot of the whole window is padding of one of R parts of the map.
        seen: (n - 1, R) float32, the weight that a token gives to padding of each part: 1, or almost 0 if they
            must not attend to each other.
        hidden: whether padding is hidden.
    """

    window: Tuple[int, int]
    spans: Tuple[List[Span], List[Span]]
    kept: Tensor
    parts: Tensor
    seen: Tensor
    hidden: bool

    def copy_tokens(self, bias: Tensor, into: Tensor) -> None:
        """Copy the tokens' part of the bias (heads, N, N) of whole windows into (heads, n - 1, n - 1).

        It copies span by span, since indexing numbers one by one takes ten times as long.
        """
        sides = [spans[-1].kept.stop for spans in self.spans]
        bias, into = (of.unflatten(2, grid).unflatten(1, grid) for of, grid in ((bias, self.window), (into, sides)))
        for spans in product(*self.spans, *self.spans):
            into[(slice(None), *(span.kept for span in spans))] = bias[(slice(None), *(span.whole for span in spans))]

    def logits(self, of_window: WindowBias) -> Tensor:
        """Return the bias of the pad token for each query: (heads, n - 1, 1)."""
        most, weights = of_window.weights
        padding = (weights @ self.parts.to(weights.dtype)).index_select(1, self.kept).mul_(self.seen)
        padding = padding.sum(-1, keepdim=True).log_().add_(most.index_select(1, self.kept))
        return padding.add_(HIDDEN_LOGIT) if self.hidden else padding


@dataclass(frozen=True)
class UnpaddedGroup:
    """Windows that keep the same slots and have the same mask.

    Attributes:
        gather: (windows, n) int64, the tokens in ``(B * L)`` that they hold; that of the pad token is any.
        tokens: the mask among them, without the pad token.
        pad_token: for the padding. None without any.
    """

    gather: Tensor
    tokens: WindowGroup
    pad_token: Optional[PadToken]

    @property
    def area(self) -> int:
        """Return n, the slots of a window including the pad token."""
        return self.gather.shape[1]

    def chunks(self, slots: int) -> List[slice]:
        """Return the windows in parts of at most the given number of slots, or of a single window with more."""
        windows, most = self.gather.shape[0], max(1, slots // self.area)
        if self.pad_token is not None:
            return split(windows, most)
        return recurring_chunks(windows, most, -(-MIN_ROWS // self.area))

    def attn_mask(self, of_window: WindowBias) -> Tensor:
        """Return bias plus mask: (1, heads, n, n), of the bias's dtype. Not to be called under autocast."""
        bias, mask = of_window.bias, self.tokens.mask(of_window.bias.dtype)
        if self.pad_token is None:
            return bias.unsqueeze(0) if mask is None else bias + mask
        # Written in place, since the fresh pages of a large new tensor cost more than the writing.
        out = bias.new_empty(1, bias.shape[0], self.area, self.area)
        own = out[..., :-1, :-1]
        self.pad_token.copy_tokens(bias, own[0])
        if mask is not None:
            own += mask
        out[0, :, :-1, -1:] = self.pad_token.logits(of_window)
        out[..., -1, :] = 0
        return out


@dataclass(frozen=True)
class UnpaddedPlan:
    """A plan's windows without their padding.

    Attributes:
        window: height and width of a whole window in tokens.
        groups: of all windows.
    """

    window: Tuple[int, int]
    groups: Tuple[UnpaddedGroup, ...]

    def rows(self, slots: int) -> Counter[int]:
        """Count the chunks of each number of rows that recurs with other maps: full and powers of two.

        In groups with a pad token the numbers vary with the map.
        """
        found: Counter[int] = Counter()
        for group in self.groups:
            sizes = [some.stop - some.start for some in group.chunks(slots)] if group.pad_token is None else []
            found.update(size * group.area for size in sizes
                         if size == max(1, slots // group.area) or not size & (size - 1))
        return found


@tensor_cache(MAX_CACHED_PLANS)
def unpadded_plan(plan: WindowPlan) -> UnpaddedPlan:
    """Return the plan without padding, from a bounded cache."""
    tokens = plan.gather.view(plan.num_windows, -1)
    pad_mask = None if plan.pad_mask is None else plan.pad_mask.view_as(tokens)
    groups, start = [], 0
    for whole in plan.groups:
        at = slice(start, start + whole.count)
        groups += _unpadded_groups(tokens[at], None if pad_mask is None else pad_mask[at], whole, plan.window)
        start = at.stop
    return UnpaddedPlan(plan.window, tuple(groups))


def _unpadded_groups(windows: Tensor, pad_mask: Optional[Tensor], whole: WindowGroup,
                     window: Tuple[int, int]) -> List[UnpaddedGroup]:
    """Return groups of alike windows, of windows (count, N) of tokens with padding at ``pad_mask`` (count, N)."""
    own = [] if whole.shares_mask else [each for each in (whole.region, whole.hidden) if each is not None]
    about = own if pad_mask is None else [pad_mask, *own]
    if not about:
        return [UnpaddedGroup(windows, whole, None)]
    _, which = torch.unique(torch.cat([each.long() for each in about], dim=1), dim=0, return_inverse=True)
    groups = []
    for number in range(int(which.max()) + 1):
        members = (which == number).nonzero().flatten()
        first = int(members[0])
        alike = WindowGroup(len(members), *(each if each is None or whole.shares_mask else each[first:first + 1]
                                            for each in (whole.region, whole.hidden)))
        pattern = None if pad_mask is None or not pad_mask[first].any() else pad_mask[first]
        groups.append(_unpadded_group(windows[members], pattern, alike, window))
    return groups


def _unpadded_group(windows: Tensor, padding: Optional[Tensor], whole: WindowGroup,
                    window: Tuple[int, int]) -> UnpaddedGroup:
    """Return the group of windows (count, N) of tokens that are all alike, with padding at ``padding`` (N,)."""
    if padding is None:
        return UnpaddedGroup(windows, whole, None)
    kept = (~padding).nonzero().flatten()
    region = torch.zeros_like(padding, dtype=torch.long) if whole.region is None else whole.region[0]
    regions = region[padding].unique()
    parts = (padding & (region == regions[:, None])).t().float()
    seen = (MASKED_LOGIT * (region[kept, None] != regions).float()).exp()
    tokens = WindowGroup(whole.count, *(each if each is None else each[:, kept]
                                        for each in (whole.region, whole.hidden)))
    grid = ~padding.view(window)
    spans = _spans(grid.any(1).tolist()), _spans(grid.any(0).tolist())
    return UnpaddedGroup(F.pad(windows.index_select(1, kept), (0, 1)), tokens,
                        PadToken(window, spans, kept, parts, seen, hidden=whole.hidden is not None))


def _spans(holds_tokens: List[bool]) -> List[Span]:
    """Return the spans of rows or columns, in order."""
    spans, start, before = [], 0, 0
    for holds, alike in groupby(holds_tokens):
        length = len(list(alike))
        if holds:
            spans.append(Span(slice(start, start + length), slice(before, before + length)))
            before += length
        start += length
    return spans
