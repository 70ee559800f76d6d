"""What is added to the logits of attention: the bias, and the masks of the windows."""
from __future__ import annotations

from typing import Callable, Iterable, Iterator, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_tracing
from .windows import WindowGroup

# CUDA's memory-efficient kernels want rows that start at multiples of 16 bytes: of 8 numbers in half precision.
ALIGNMENT = 8
# On CUDA, up to so many windows of up to so many tokens are attended to in one call whatever their masks, as with so
# few it is the host that is waited for. What is added to their logits then takes memory of its own for each window, but
# no more than queries, keys and values (with 32 channels in a head, as Swin has them).
JOINED_TOKENS = 96
JOINED_WINDOWS = 2**13

Split = Callable[[int], Iterable[slice]]


def added_logits(bias: Optional[Tensor], groups: Sequence[WindowGroup], like: Tensor,
                 split: Optional[Split] = None) -> Iterator[Tuple[slice, Optional[Tensor]]]:
    """What is added to the logits of some windows after the other.

    Args:
        bias: (heads, N, N) or None.
        groups: of the windows, in order.
        like: queries, (nW, heads, N, channels of a head), of the dtype and device wanted.
        split: how to split a number of windows. Default: a group at once, or all where that is faster.

    Yields:
        Windows, and (1 or windows, 1 or heads, N, N) or None.
    """
    on_cuda, area = like.device.type == 'cuda', like.shape[2]
    room = -area % ALIGNMENT if on_cuda else 0
    if bias is not None:
        bias = (F.pad(bias, (0, room)) if room else bias).unsqueeze(0)

    def added(mask: Optional[Tensor]) -> Optional[Tensor]:
        both = bias if mask is None else mask if bias is None else bias + mask
        return both[..., :area] if room and both is not None else both

    few = area <= JOINED_TOKENS and (is_tracing() or like.shape[0] <= JOINED_WINDOWS)
    if on_cuda and split is None and len(groups) > 1 and few:
        yield slice(None), added(_joined_mask(groups, like, room))
        return
    start = 0
    for group in groups:
        if split is None:
            at = slice(start, start + group.count) if len(groups) > 1 else slice(None)
            yield at, added(group.mask(like.dtype, room))
        else:
            shared = added(group.mask(like.dtype, room)) if group.shares_mask else None
            for some in split(group.count):
                own = shared if group.shares_mask else added(group.part(some).mask(like.dtype, room))
                yield slice(start + some.start, start + some.stop), own
        start = start + group.count


def _joined_mask(groups: Sequence[WindowGroup], like: Tensor, room: int) -> Tensor:
    """(nW, 1, N, N + room)."""
    area = like.shape[2]
    masks = [group.mask(like.dtype, room) for group in groups]
    nothing = like.new_zeros(1, 1, 1, 1) if any(mask is None for mask in masks) else None
    return torch.cat([(nothing if mask is None else mask).expand(group.count, -1, area, area + room)
                      for mask, group in zip(masks, groups)])
