"""Windows without their padding, for inference.

Windows at the border are padded; of small maps that can be more than half of all slots. What a slot of padding would
find as a query is thrown away. As keys and values these slots are all alike: zeros, which the projection maps to its
bias. Where they have logits ``s + b_1 .. s + b_p`` for a query, with ``s`` from the products and ``b_j`` from bias and
mask, they weigh as much as one with ``s + log(exp(b_1) + .. + exp(b_p))``. So a window keeps its tokens and one
stand-in for all its padding, and the result is the same.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .windows import MASKED_LOGIT, MAX_CACHED_PLANS, WindowGroup, WindowPlan


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


@dataclass(frozen=True)
class StandIn:
    """The last slot of a window, which stands for all its padding.

    Attributes:
        kept: (n - 1,) int64, of the other slots those in the whole window.
        parts: (N, R) float32, 1 where a slot of the whole window is padding of one of R parts of the map.
        seen: (n - 1, R) float32, the weight that a token gives to padding of each part: 1, or next to none if they
            must not meet.
        mask: (n - 1, n - 1) float32, what is added to the logits of the tokens. None: nothing.
    """

    kept: Tensor
    parts: Tensor
    seen: Tensor
    mask: Optional[Tensor]


@dataclass(frozen=True)
class CompactGroup:
    """Windows that follow each other and keep the same slots.

    Attributes:
        gather: (windows, n) int64, the tokens in ``(B * L)`` that they hold; a stand-in's is any.
        whole: the same windows with their padding.
        stand_in: for the padding. None without any.
    """

    gather: Tensor
    whole: WindowGroup
    stand_in: Optional[StandIn] = None

    @property
    def area(self) -> int:
        """Slots of a window, the stand-in's among them: n."""
        return self.gather.shape[1]

    def added(self, of_window: WindowBias) -> Tensor:
        """What is added to the logits: (1, heads, n, n), of the bias's dtype. Not to be called under autocast."""
        bias, own = of_window.bias, self.stand_in
        if own is None:
            mask = self.whole.mask(bias.dtype)
            return bias.unsqueeze(0) if mask is None else bias + mask
        pairs = (own.kept[:, None] * bias.shape[-1] + own.kept).flatten()
        tokens = bias.flatten(1).index_select(1, pairs).view(bias.shape[0], *[len(own.kept)] * 2)
        tokens = tokens if own.mask is None else tokens.add_(own.mask)
        most, weights = of_window.weights
        padding = (weights @ own.parts.to(weights.dtype)).index_select(1, own.kept).mul_(own.seen).sum(-1, keepdim=True)
        padding = padding.log_().add_(most.index_select(1, own.kept))
        return F.pad(torch.cat([tokens, padding], dim=2), (0, 0, 0, 1)).unsqueeze(0)


@dataclass(frozen=True)
class CompactPlan:
    """A plan's windows without their padding.

    Attributes:
        window: height and width of a whole window in tokens.
        groups: of all windows.
        slots: of all windows together.
    """

    window: Tuple[int, int]
    groups: Tuple[CompactGroup, ...]
    slots: int


@lru_cache(maxsize=MAX_CACHED_PLANS)
def compact_plan(plan: WindowPlan) -> Optional[CompactPlan]:
    """The plan without padding; None where padding is hidden, as windows of a group have masks of their own then."""
    if any(group.hidden is not None for group in plan.groups):
        return None
    with torch.inference_mode(False), torch.no_grad():
        tokens = plan.gather.view(plan.num_windows, -1)
        outside = torch.zeros_like(tokens, dtype=torch.bool) if plan.outside is None else plan.outside.view_as(tokens)
        groups, start = [], 0
        for whole in plan.groups:
            at = slice(start, start + whole.count)
            start = at.stop
            patterns, which = torch.unique(outside[at], dim=0, return_inverse=True)
            groups += [_compact_group(tokens[at][which == number], pattern, whole)
                       for number, pattern in enumerate(patterns)]
    return CompactPlan(plan.window, tuple(groups), sum(group.gather.numel() for group in groups))


def _compact_group(windows: Tensor, pattern: Tensor, whole: WindowGroup) -> CompactGroup:
    """Of windows (count, N) of tokens with padding where ``pattern`` (N,) says, some of those of ``whole``."""
    whole = WindowGroup(windows.shape[0], whole.region)
    if not pattern.any():
        return CompactGroup(windows, whole)
    kept = (~pattern).nonzero().flatten()
    region = torch.zeros_like(kept.new_empty(pattern.shape)) if whole.region is None else whole.region[0]
    regions = region[pattern].unique()
    parts = (pattern & (region == regions[:, None])).t().float()
    apart = region[kept, None] != regions
    mask = MASKED_LOGIT * (region[kept, None] != region[kept]).float()
    own = StandIn(kept, parts, (MASKED_LOGIT * apart.float()).exp(), mask if mask.any() else None)
    return CompactGroup(F.pad(windows.index_select(1, kept), (0, 1)), whole, own)
