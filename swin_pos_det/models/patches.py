"""Patch embedding and patch merging: mmdet's, whose padding can be traced with sizes that are symbols.

Parameter names are those of mmdet's, so that checkpoints go both ways.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.layers import PatchEmbed as MMDetPatchEmbed
from mmdet.models.layers import PatchMerging as MMDetPatchMerging
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import ROWS, blocks, can_go_by_rows, is_plain, is_tracing

Pair = Tuple[int, int]
Cfg = Dict[str, Any]


def pad_to_multiple(maps: Tensor, multiple: Pair) -> Tensor:
    """Zeros at the bottom and right of maps (B, C, H, W), up to the next multiples of (down, across).

    In a graph it is done whatever the size, since a branch would hold the graph to sizes that need it, or do not.
    """
    (height, width), (down, across) = maps.shape[2:], multiple
    below, beside = (height + down - 1) // down * down - height, (width + across - 1) // across * across - width
    return F.pad(maps, (0, beside, 0, below)) if is_tracing() or below or beside else maps


class PatchEmbed(MMDetPatchEmbed):
    """mmdet's patch embedding for patches that do not overlap."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Pair]:
        """Images (B, in_channels, H, W) -> (B, H' * W', C) tokens and (H', W')."""
        x = self.projection(pad_to_multiple(x, self.projection.stride))
        size = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return (x if self.norm is None else self.norm(x)), size


class PatchMerging(MMDetPatchMerging):
    """mmdet's patch merging without ``nn.Unfold`` for the 2x2 case, which is all that Swin has.

    The four tokens' channels are interleaved as Unfold leaves them (channel-major: ``4 c + 2 row + column``), so that
    mmdet's weights fit. Odd maps are padded with zeros at the bottom and right.

    Args:
        in_channels: C.
        out_channels: C'.
        norm_cfg: norm, or None for none.
        norm_order: 'pre': before the reduction, on 4 C channels (Swin). 'res-post': after it, on C' channels (Swin V2).
        **sampling: further arguments of mmdet's.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: Optional[Cfg] = None, norm_order: str = 'pre',
                 **sampling: Any) -> None:
        post = norm_order == 'res-post'
        super().__init__(in_channels, out_channels, norm_cfg=None if post else norm_cfg, **sampling)
        self.norm_order = norm_order
        if post and norm_cfg is not None:
            self.norm = build_norm_layer(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor, input_size: Pair) -> Tuple[Tensor, Pair]:
        """(B, H * W, C) tokens of maps of ``input_size`` = (H, W) -> (B, H' * W', C') tokens and (H', W')."""
        if self._can_go_by_rows(x):
            return self._forward_by_rows(x, input_size)
        x, merged = self._merge(x, input_size)
        before, after = self._norms()
        x = self.reduction(x if before is None else before(x))
        return (x if after is None else after(x)), merged

    def _norms(self) -> Tuple[Optional[nn.Module], Optional[nn.Module]]:
        """The norms before and after the reduction, of which one at least is None."""
        return (self.norm, None) if self.norm_order == 'pre' else (None, self.norm)

    def _merge(self, x: Tensor, input_size: Pair) -> Tuple[Tensor, Pair]:
        """(B, H * W, C) -> (B, H' * W', 4 C) and (H', W')."""
        height, width = input_size
        x = x.unflatten(1, (height, width))
        if not self._is_two_by_two():
            maps = self.adap_padding(x.permute(0, 3, 1, 2))
            merged = tuple((side - kernel) // step + 1 for side, kernel, step in zip(
                maps.shape[2:], self.sampler.kernel_size, self.sampler.stride))
            return self.sampler(maps).transpose(1, 2), merged
        fours = _fours(x)
        return fours.permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2), (fours.shape[1], fours.shape[3])

    def _is_two_by_two(self) -> bool:
        return self.sampler.stride == (2, 2) and self.sampler.kernel_size == (2, 2)

    def _can_go_by_rows(self, x: Tensor) -> bool:
        plain = is_plain(self.reduction, nn.Linear) and (self.norm is None or is_plain(self.norm, nn.LayerNorm))
        return can_go_by_rows(x) and self._is_two_by_two() and plain

    def _forward_by_rows(self, x: Tensor, input_size: Pair) -> Tuple[Tensor, Pair]:
        """The same, some rows of the map at a time, and with channels one token's after the other's.

        To interleave the channels of four tokens takes as long as the reduction itself. So it is the weights that
        change places.
        """
        fours = _fours(x.unflatten(1, input_size)).transpose(2, 3).flatten(0, 1)  # B * H', W', 2, 2, C
        (before, after), weight = self._norms(), _by_tokens(self.reduction.weight)
        if before is not None:
            affine = [None if each is None else _by_tokens(each) for each in (before.weight, before.bias)]

        def reduce(rows: Tensor) -> Tensor:
            if before is not None:
                rows = F.layer_norm(rows, before.normalized_shape, *affine, before.eps)
            rows = F.linear(rows, weight, self.reduction.bias)
            return rows if after is None else after(rows)

        most = max(1, ROWS // fours.shape[1])
        reduced = torch.cat([reduce(fours[some].flatten(2).flatten(0, 1)) for some in blocks(fours.shape[0], most)])
        return reduced.unflatten(0, (x.shape[0], -1)), (fours.shape[0] // x.shape[0], fours.shape[1])


def _fours(maps: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, H', 2, W', 2, C) with H', W' halves, rounded up; what is missing is zeros."""
    maps = pad_to_multiple(maps.permute(0, 3, 1, 2), (2, 2)).permute(0, 2, 3, 1)
    return maps.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))


def _by_tokens(of_channels: Tensor) -> Tensor:
    """What belongs to interleaved channels (..., 4 C), in the order of four tokens' channels one after the other."""
    return of_channels.unflatten(-1, (-1, 4)).transpose(-2, -1).flatten(-2)
