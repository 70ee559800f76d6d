"""Average pooling that leaves out hidden padding, for classifiers."""
from __future__ import annotations

from typing import Sequence, Tuple

from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ValidAveragePooling(nn.Module):
    """Average feature maps over the images, without the padding of the batch.

    With ``SwinPosTransformer(padding='mask')`` it takes the place of mmpretrain's ``GlobalAveragePooling``, whose
    average counts padding, so that a classifier's scores are the same alone and in any batch. The backbone's features
    are exactly zero in padding, and a position with nothing but zeros is taken for padding here.
    """

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Return (B, C) for each map (B, C, H, W)."""
        return tuple(_average(each) for each in maps)


def _average(maps: Tensor) -> Tensor:
    inside = (maps != 0).any(dim=1).sum(dim=(1, 2)).clamp(min=1)
    return maps.sum(dim=(2, 3)) / inside[:, None]
