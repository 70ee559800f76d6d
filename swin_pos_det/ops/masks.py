"""Additive masks of attention: which tokens of a window may attend to each other, joined with the position bias."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime import is_capturing, is_tracing

# Added to the logit of a pair of tokens that must not attend to each other. The value of the Swin code (and of mmdet):
# far below any logit that a trained model makes, and finite in float16.
MASKED_LOGIT = -100.0
# The same for hidden padding: its values may be anything, so this is further below.
HIDDEN_LOGIT = -10000.0

# A mask that many windows of a plan share is kept with it up to this many tokens: 256 KB in float32.
MAX_KEPT_MASK = 256

# CUDA's memory-efficient kernels need rows that start at multiples of 16 bytes: of 8 numbers in half precision.
ALIGNMENT = 8
# On CUDA, up to MAX_JOINED_WINDOWS windows of up to MAX_JOINED_TOKENS tokens are attended to in one call with any
# masks, since the host is the bottleneck there. Their masks then take memory for each window, but no more than
# queries, keys and values (with 32 channels in a head, as in Swin).
MAX_JOINED_TOKENS = 96
MAX_JOINED_WINDOWS = 2**13


@dataclass(eq=False)
class WindowGroup:
    """Windows that follow each other in a plan and share a mask, or have one mask each.

    Attributes:
        count: number of windows.
        region: (1 or count, N) int64, for each slot the part of the map that it comes from: tokens of different parts
            must not attend to each other. None if all may.
        hidden: (1 or count, N) bool, which slots hold hidden padding. None if none does.
        keeps_mask: whether a mask that all its windows share is kept, if it is small. A plan has at most three of them.
    """

    count: int
    region: Optional[Tensor] = None
    hidden: Optional[Tensor] = None
    keeps_mask: bool = False
    _masks: Dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def shares_mask(self) -> bool:
        """Return whether one mask serves all its windows."""
        return self.region is None or self.region.shape[0] == 1

    def part(self, some: slice) -> WindowGroup:
        """Return some of its windows."""
        own = not self.shares_mask
        return WindowGroup(some.stop - some.start, *(of[some] if own and of is not None else of
                                                     for of in (self.region, self.hidden)))

    def mask(self, dtype: torch.dtype, align_pad: int = 0) -> Optional[Tensor]:
        """Return the additive mask of the logits: 0 where a query may attend to a key.

        Args:
            dtype: of the mask.
            align_pad: zeros to append to each row.

        Returns:
            (1 or count, 1, N, N + align_pad) [query, key]; None if all may attend to all. Do not write to it: it may
            be kept.
        """
        if self.region is None:
            return None
        if not self.keeps_mask or is_tracing() or not self.shares_mask or self.region.shape[1] > MAX_KEPT_MASK:
            return self._make_mask(dtype, align_pad)
        if (dtype, align_pad) not in self._masks:
            if is_capturing():  # it would be read before a replay has made it
                return self._make_mask(dtype, align_pad)
            with torch.inference_mode(False), torch.no_grad():
                self._masks[dtype, align_pad] = self._make_mask(dtype, align_pad)
        return self._masks[dtype, align_pad]

    def _make_mask(self, dtype: torch.dtype, align_pad: int) -> Tensor:
        mask = (self.region[:, None, :] != self.region[:, :, None]).to(dtype) * MASKED_LOGIT
        if self.hidden is not None:
            mask = mask + self.hidden[:, None, :].to(dtype) * HIDDEN_LOGIT
        return (F.pad(mask, (0, align_pad)) if align_pad else mask).unsqueeze(1)


def split(length: int, most: int) -> List[slice]:
    """Return slices of at most ``most`` items that together are all ``length`` items, in order."""
    return [slice(first, min(first + most, length)) for first in range(0, length, most)]


def attn_masks(bias: Optional[Tensor], groups: Sequence[WindowGroup], like: Tensor,
               at_once: Optional[int] = None) -> Iterator[Tuple[slice, Optional[Tensor]]]:
    """Yield bias plus mask of the logits, for some windows at a time.

    Args:
        bias: (heads, N, N) or None.
        groups: of the windows, in order.
        like: queries, (nW, heads, N, channels of a head), of the dtype and device wanted.
        at_once: maximum of windows. Default: a whole group at once, or all groups where that is faster.

    Yields:
        A slice of the windows, and (1 or windows, 1 or heads, N, N) or None.
    """
    on_cuda, area = like.device.type == 'cuda', like.shape[2]
    align_pad = -area % ALIGNMENT if on_cuda else 0
    if bias is not None:
        bias = (F.pad(bias, (0, align_pad)) if align_pad else bias).unsqueeze(0)

    def with_bias(mask: Optional[Tensor]) -> Optional[Tensor]:
        both = bias if mask is None else mask if bias is None else bias + mask
        return both[..., :area] if align_pad and both is not None else both

    few = area <= MAX_JOINED_TOKENS and (is_tracing() or like.shape[0] <= MAX_JOINED_WINDOWS)
    if on_cuda and at_once is None and len(groups) > 1 and few:
        yield slice(None), with_bias(joined_mask(groups, like, align_pad))
        return
    start = 0
    for group in groups:
        if at_once is None:
            at = slice(start, start + group.count) if len(groups) > 1 else slice(None)
            yield at, with_bias(group.mask(like.dtype, align_pad))
        else:
            shared = with_bias(group.mask(like.dtype, align_pad)) if group.shares_mask else None
            for some in split(group.count, at_once):
                own = shared if group.shares_mask else with_bias(group.part(some).mask(like.dtype, align_pad))
                yield slice(start + some.start, start + some.stop), own
        start = start + group.count


def joined_mask(groups: Sequence[WindowGroup], like: Tensor, align_pad: int = 0) -> Tensor:
    """Join the masks of all windows: (nW, 1, N, N + align_pad), of the dtype and device of queries ``like``."""
    area = like.shape[2]
    masks = [group.mask(like.dtype, align_pad) for group in groups]
    nothing = like.new_zeros(1, 1, 1, 1) if any(mask is None for mask in masks) else None
    return torch.cat([(nothing if mask is None else mask).expand(group.count, -1, area, area + align_pad)
                      for mask, group in zip(masks, groups)])
