"""mmdet's extractor of RoI features with one wait for the device instead of one for each level."""
from __future__ import annotations

from typing import Optional, Tuple

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class VectorizedSingleRoIExtractor(SingleRoIExtractor):
    """mmdet's ``SingleRoIExtractor``, the same arguments, features and gradients.

    Regions are sorted by level once; mmdet looks for those of each level, and waits for their number.
    """

    def forward(self, feats: Tuple[Tensor, ...], rois: Tensor, roi_scale_factor: Optional[float] = None) -> Tensor:
        """Extract the features of regions.

        Args:
            feats: (B, C, H, W) of each level.
            rois: (K, 5) number of the image, x1, y1, x2, y2.
            roi_scale_factor: enlarge regions by it.

        Returns:
            (K, C, h, w).
        """
        if len(feats) == 1 or not len(rois) or roi_scale_factor is not None or list(self.parameters()):
            return super().forward(feats, rois, roi_scale_factor)
        rois = rois.type_as(feats[0])
        levels = self.map_roi_levels(rois, len(feats))
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(feats)).tolist()
        parts = zip(self.roi_layers, feats, rois[order].split(counts))
        found = torch.cat([layer(feat, part) for layer, feat, part in parts if len(part)])
        found = found.new_empty(found.shape).index_copy_(0, order, found)
        for feat, count in zip(feats, counts):
            if not count:  # as in mmdet: each level has a gradient in each process
                found = found + feat.sum() * 0.
        return found
