"""The valid area of each image in a padded batch: its size in each stage, and zeros outside it."""
from __future__ import annotations

from typing import List, Optional, Sequence

import torch
from torch import Tensor

from ..ops.windows import Pair


def downsample_sizes(valid: Optional[Sequence[Pair]], stride: Pair) -> Optional[List[Pair]]:
    """Return valid sizes after a layer of the given stride: rounded up, as the layer pads its input with zeros."""
    # Not -(-side // step): sides are symbols in an exported graph, and ONNX's Div of integers rounds towards zero.
    return None if valid is None else [
        tuple((side + step - 1) // step for side, step in zip(size, stride)) for size in valid]


def mask_padding(x: Tensor, valid: Optional[Sequence[Pair]], hw_shape: Optional[Pair] = None) -> Tensor:
    """Set padding to zero, as if it had been added at this point.

    Args:
        x: (B, C, H, W) images, or with ``hw_shape`` (B, H * W, C) tokens.
        valid: (h, w) of each image at the top left, in pixels or tokens; None: there is no padding.
        hw_shape: (H, W) of the tokens.

    Returns:
        The same shape.
    """
    if valid is None:
        return x
    height, width = x.shape[-2:] if hw_shape is None else hw_shape
    # A comparison for each image, since copying a tensor of the sizes to a GPU would synchronize with it.
    row, col = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = torch.stack([row < own for own, _ in valid])
    cols = torch.stack([col < own for _, own in valid])
    inside = rows[:, :, None] & cols[:, None, :]
    inside = inside.unsqueeze(1) if hw_shape is None else inside.flatten(1).unsqueeze(2)
    # Not a product, since padding may hold anything, and 0 * inf is NaN.
    return torch.where(inside, x, x.new_zeros(()))
