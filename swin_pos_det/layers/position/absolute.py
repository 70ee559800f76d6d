"""Absolute position: a learned embedding per token of a reference grid, resampled to the size of the map."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SettingError
from ...ops.windows import Pair
from .base import PositionScheme, register_position


def resample_absolute(embedding: Tensor, source: Pair, target: Pair) -> Tensor:
    """Resample an absolute position embedding bicubically to another grid (as Swin's detection code does).

    Args:
        embedding: (1, h * w, C), learned on the grid ``source``, row-major.
        source: its grid (h, w) in tokens.
        target: the wanted grid.

    Returns:
        (1, target h * target w, C); ``embedding`` itself if the grids are equal.

    Raises:
        ValueError: if the embedding does not have h * w tokens.
    """
    if embedding.shape[1] != source[0] * source[1]:
        raise SettingError(
            f'an absolute position embedding on the grid {source} has {source[0] * source[1]} tokens, '
            f'got {embedding.shape[1]}')
    if tuple(source) == tuple(target):
        return embedding
    # Not every device can interpolate half precision.
    full = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
    picture = full.transpose(1, 2).unflatten(2, source)
    resized = F.interpolate(picture, size=tuple(target), mode='bicubic', align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(embedding.dtype)


@register_position('absolute')
@dataclass(frozen=True)
class Absolute(PositionScheme):
    """A learned embedding for each token of the map, added after the patch embedding (ViT,
    https://arxiv.org/abs/2010.11929, section 3.1, equation 1; 'abs. pos.' in table 4 of Swin).

    The embedding ``absolute_pos_embed`` is the backbone's, learned on the grid of ``pretrain_img_size`` and resampled
    bicubically to the size of the map, see :func:`resample_absolute`. Attention itself does not change.
    ``use_abs_pos_embed`` adds it to any other scheme; ``'absolute+relative'`` is the paper's combination of the two.
    """

    parameters = ('absolute_pos_embed', )
    absolute = True
