"""The part of a padded batch that is image: its size through the stages, and zeros outside it."""
from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

Pair = Tuple[int, int]


def shrink(valid: Optional[Sequence[Pair]], stride: Pair) -> Optional[List[Pair]]:
    """Valid sizes after a layer of the given stride: rounded up, as the layer pads its input with zeros."""
    return None if valid is None else [(-(-h // stride[0]), -(-w // stride[1])) for h, w in valid]


def zero_outside(x: Tensor, valid: Optional[Sequence[Pair]], hw_shape: Optional[Pair] = None) -> Tensor:
    """Zeros where there is no image, so that it is as if the padding had been made just here.

    Args:
        x: (B, C, H, W) images, or with ``hw_shape`` (B, H * W, C) tokens.
        valid: (h, w) of each image at the top left, in pixels or tokens; None: everything is image.
        hw_shape: (H, W) of the tokens.

    Returns:
        The same shape.
    """
    if valid is None:
        return x
    height, width = x.shape[-2:] if hw_shape is None else hw_shape
    # A comparison for each image: moving a tensor of the sizes to a GPU would make the host wait for it.
    row, col = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = torch.stack([row < own for own, _ in valid])
    cols = torch.stack([col < own for _, own in valid])
    inside = rows[:, :, None] & cols[:, None, :]
    inside = inside.unsqueeze(1) if hw_shape is None else inside.flatten(1).unsqueeze(2)
    # Not a product: padding may hold anything, and 0 * inf is no zero.
    return torch.where(inside, x, x.new_zeros(()))
