"""Windows without their padding, for inference.

Windows at the border are padded; of small maps that can be more than half of all slots. What a slot of padding would
find as a query is thrown away. As keys and values these slots are all alike: zeros, which the projection maps to its
bias. Where they have logits ``s + b_1 .. s + b_p`` for a query, with ``s`` from the products and ``b_j`` from bias and
mask, they weigh as much as one with ``s + log(exp(b_1) + .. + exp(b_p))``. So a window keeps its tokens and one
stand-in for all its padding, and the result is the same.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, product
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import ENOUGH_ROWS
from .rows import blocks, recurring_blocks
from .windows import HIDDEN_LOGIT, MASKED_LOGIT, MAX_CACHED_PLANS, WindowGroup, WindowPlan


class WindowBias:
    """The bias of whole windows, and what stand-ins need of it, made once for all groups.

    Args:
        bias: (heads, N, N), of float32 at least, as exponentials are taken of it.
    """

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    @cached_property
    def weights(self) -> Tuple[Tensor, Tensor]:
        """The largest bias of each query (heads, N, 1), and the exponentials of all less that (heads, N, N)."""
        most = self.bias.amax(-1, keepdim=True)
        return most, (self.bias - most).exp_()


class Run(NamedTuple):
    """Rows or columns of a window that follow each other and hold tokens: which, and which of those with tokens."""

    whole: slice
    kept: slice


@dataclass(frozen=True)
class StandIn:
    """The last slot of a window, which stands for all its padding.

    Attributes:
        window: height and width of the whole window.
        runs: of its rows, and of its columns. Tokens are where both meet, as a map is a rectangle.
        kept: (n - 1,) int64, where the other slots are in the whole window.
        parts: (N, R) float32, 1 where a slot of the whole window is padding of one of R parts of the map.
        seen: (n - 1, R) float32, the weight that a token gives to padding of each part: 1, or next to none if they
            must not meet.
        hidden: whether padding is hidden.
    """

    window: Tuple[int, int]
    runs: Tuple[List[Run], List[Run]]
    kept: Tensor
    parts: Tensor
    seen: Tensor
    hidden: bool

    def put_tokens(self, bias: Tensor, into: Tensor) -> None:
        """Copies of the bias (heads, N, N) of whole windows that of their tokens: (heads, n - 1, n - 1).

        Stretch by stretch, as picking numbers one by one takes ten times as long.
        """
        sides = [runs[-1].kept.stop for runs in self.runs]
        bias, into = (of.unflatten(2, grid).unflatten(1, grid) for of, grid in ((bias, self.window), (into, sides)))
        for stretch in product(*self.runs, *self.runs):
            into[(slice(None), *(run.kept for run in stretch))] = bias[(slice(None), *(run.whole for run in stretch))]

    def logits(self, of_window: WindowBias) -> Tensor:
        """What is added to the tokens' logits of the stand-in: (heads, n - 1, 1)."""
        most, weights = of_window.weights
        padding = (weights @ self.parts.to(weights.dtype)).index_select(1, self.kept).mul_(self.seen)
        padding = padding.sum(-1, keepdim=True).log_().add_(most.index_select(1, self.kept))
        return padding.add_(HIDDEN_LOGIT) if self.hidden else padding


@dataclass(frozen=True)
class CompactGroup:
    """Windows that keep the same slots, of which the same may attend to each other.

    Attributes:
        gather: (windows, n) int64, the tokens in ``(B * L)`` that they hold; a stand-in's is any.
        tokens: who may attend to whom among them, without the stand-in.
        stand_in: for the padding. None without any.
    """

    gather: Tensor
    tokens: WindowGroup
    stand_in: Optional[StandIn]

    @property
    def area(self) -> int:
        """Slots of a window, the stand-in's among them: n."""
        return self.gather.shape[1]

    def blocks(self, slots: int) -> List[slice]:
        """The windows, some at a time, with no more slots than said unless a single window has more."""
        windows, most = self.gather.shape[0], max(1, slots // self.area)
        if self.stand_in is not None:
            return blocks(windows, most)
        return recurring_blocks(windows, most, -(-ENOUGH_ROWS // self.area))

    def added(self, of_window: WindowBias) -> Tensor:
        """What is added to the logits: (1, heads, n, n), of the bias's dtype. Not to be called under autocast."""
        bias, mask = of_window.bias, self.tokens.mask(of_window.bias.dtype)
        if self.stand_in is None:
            return bias.unsqueeze(0) if mask is None else bias + mask
        # Written in place, as what is large comes in fresh pages, which cost more than what is written.
        out = bias.new_empty(1, bias.shape[0], self.area, self.area)
        own = out[..., :-1, :-1]
        self.stand_in.put_tokens(bias, own[0])
        if mask is not None:
            own += mask
        out[0, :, :-1, -1:] = self.stand_in.logits(of_window)
        out[..., -1, :] = 0
        return out


@dataclass(frozen=True)
class CompactPlan:
    """A plan's windows without their padding.

    Attributes:
        window: height and width of a whole window in tokens.
        groups: of all windows.
    """

    window: Tuple[int, int]
    groups: Tuple[CompactGroup, ...]

    def rows(self, slots: int) -> Counter[int]:
        """How often blocks of so many rows come, of those that recur with other maps: full ones and powers of two.

        In groups with a stand-in they vary with the map.
        """
        found: Counter[int] = Counter()
        for group in self.groups:
            sizes = [some.stop - some.start for some in group.blocks(slots)] if group.stand_in is None else []
            found.update(size * group.area for size in sizes
                         if size == max(1, slots // group.area) or not size & (size - 1))
        return found


@lru_cache(maxsize=MAX_CACHED_PLANS)
def compact_plan(plan: WindowPlan) -> CompactPlan:
    """The plan without padding, from a bounded cache."""
    with torch.inference_mode(False), torch.no_grad():
        tokens = plan.gather.view(plan.num_windows, -1)
        outside = None if plan.outside is None else plan.outside.view_as(tokens)
        groups, start = [], 0
        for whole in plan.groups:
            at = slice(start, start + whole.count)
            groups += _compact_groups(tokens[at], None if outside is None else outside[at], whole, plan.window)
            start = at.stop
    return CompactPlan(plan.window, tuple(groups))


def _compact_groups(windows: Tensor, outside: Optional[Tensor], whole: WindowGroup,
                    window: Tuple[int, int]) -> List[CompactGroup]:
    """Of windows (count, N) of tokens, with padding where ``outside`` (count, N) says, those that are alike."""
    own = [] if whole.shares_mask else [each for each in (whole.region, whole.hidden) if each is not None]
    about = own if outside is None else [outside, *own]
    if not about:
        return [CompactGroup(windows, whole, None)]
    _, which = torch.unique(torch.cat([each.long() for each in about], dim=1), dim=0, return_inverse=True)
    groups = []
    for number in range(int(which.max()) + 1):
        members = (which == number).nonzero().flatten()
        first = int(members[0])
        alike = WindowGroup(len(members), *(each if each is None or whole.shares_mask else each[first:first + 1]
                                            for each in (whole.region, whole.hidden)))
        pattern = None if outside is None or not outside[first].any() else outside[first]
        groups.append(_compact_group(windows[members], pattern, alike, window))
    return groups


def _compact_group(windows: Tensor, padding: Optional[Tensor], whole: WindowGroup,
                   window: Tuple[int, int]) -> CompactGroup:
    """Of windows (count, N) of tokens that are all alike, with padding where ``padding`` (N,) says."""
    if padding is None:
        return CompactGroup(windows, whole, None)
    kept = (~padding).nonzero().flatten()
    region = torch.zeros_like(padding, dtype=torch.long) if whole.region is None else whole.region[0]
    regions = region[padding].unique()
    parts = (padding & (region == regions[:, None])).t().float()
    seen = (MASKED_LOGIT * (region[kept, None] != regions).float()).exp()
    tokens = WindowGroup(whole.count, *(each if each is None else each[:, kept]
                                        for each in (whole.region, whole.hidden)))
    grid = ~padding.view(window)
    runs = _runs(grid.any(1).tolist()), _runs(grid.any(0).tolist())
    return CompactGroup(F.pad(windows.index_select(1, kept), (0, 1)), tokens,
                        StandIn(window, runs, kept, parts, seen, hidden=whole.hidden is not None))


def _runs(holds_tokens: List[bool]) -> List[Run]:
    """Of rows or columns, in order."""
    runs, start, before = [], 0, 0
    for holds, alike in groupby(holds_tokens):
        length = len(list(alike))
        if holds:
            runs.append(Run(slice(start, start + length), slice(before, before + length)))
            before += length
        start += length
    return runs
