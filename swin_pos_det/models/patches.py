"""Patch embedding and patch merging: mmdet's, with padding that can be traced at symbolic sizes.

Parameter names are those of mmdet's, so that checkpoints load in both directions.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from mmcv.cnn import build_norm_layer
from mmdet.models.layers import PatchEmbed as MMDetPatchEmbed
from mmdet.models.layers import PatchMerging as MMDetPatchMerging
from torch import Tensor, nn

from ..ops import cpu_inference
from ..ops.patches import pad_to_multiple, two_by_two
from ..ops.runtime import record_modules
from ..ops.windows import Pair

Cfg = Dict[str, Any]


class PatchEmbed(MMDetPatchEmbed):
    """mmdet's patch embedding for patches that do not overlap."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Pair]:
        """Embed images (B, in_channels, H, W): (B, H' * W', C) tokens and (H', W')."""
        x = self.projection(pad_to_multiple(x, self.projection.stride))
        size = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)
        return (x if self.norm is None else self.norm(x)), size


class PatchMerging(MMDetPatchMerging):
    """mmdet's patch merging, without ``nn.Unfold`` for 2x2, the only kind that Swin has.

    The channels of the four tokens are interleaved in the order of Unfold (channel-major: ``4 c + 2 row + column``), so
    that mmdet's weights fit. Odd maps are padded with zeros at the bottom and right.

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
        record_modules(self, PatchMerging)  # cpu_inference replaces the forward only as long as they are these

    def forward(self, x: Tensor, input_size: Pair) -> Tuple[Tensor, Pair]:
        """Merge (B, H * W, C) tokens of maps of ``input_size`` = (H, W) to (B, H' * W', C') tokens and (H', W')."""
        if cpu_inference.can_run_merging(self, x):
            return cpu_inference.run_merging(self, x, input_size)
        x, merged = self._merge(x, input_size)
        before, after = self.norms
        x = self.reduction(x if before is None else before(x))
        return (x if after is None else after(x)), merged

    @property
    def norms(self) -> Tuple[Optional[nn.Module], Optional[nn.Module]]:
        """Return the norms before and after the reduction, at least one of which is None."""
        return (self.norm, None) if self.norm_order == 'pre' else (None, self.norm)

    @property
    def is_two_by_two(self) -> bool:
        """Return whether it merges squares of four tokens, which do not overlap."""
        return self.sampler.stride == (2, 2) and self.sampler.kernel_size == (2, 2)

    def _merge(self, x: Tensor, input_size: Pair) -> Tuple[Tensor, Pair]:
        """Merge (B, H * W, C) to (B, H' * W', 4 C) and (H', W')."""
        if self.is_two_by_two:
            fours = two_by_two(x, input_size)
            return fours.permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2), (fours.shape[1], fours.shape[3])
        maps = self.adap_padding(x.unflatten(1, input_size).permute(0, 3, 1, 2))
        merged = tuple((side - kernel) // step + 1 for side, kernel, step in zip(
            maps.shape[2:], self.sampler.kernel_size, self.sampler.stride))
        return self.sampler(maps).transpose(1, 2), merged
