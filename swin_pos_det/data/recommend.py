"""Pick the image size and the anchors' scale for a data set, and say why."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Sides are multiples of this, the stride of a detector's coarsest usual features.
_MULTIPLE = 32
# A tenth of the objects may be smaller than this in the network's input, in pixels: four cells of the finest features.
_SMALL_SIDE = 16
# The image is at most so much larger, and at least so much smaller, than the config's.
_LARGEST, _SMALLEST = 1.5, 0.5
# The long side is at most so many short ones.
_LONGEST = 2.
_SCALES = (1, 2, 4, 8, 16)
# Another scale of the anchors must gain this much in IoU: pretrained heads know the config's own.
_MIN_GAIN = 0.02


def choose_image_size(sizes: np.ndarray, sides: np.ndarray, base: tuple[int, int]) -> tuple[tuple[int, int], str]:
    """Choose the size to which images are resized.

    The short side is that of the median image, within half of and once the config's, and larger where a tenth of the
    objects would be under 16 px. The long side follows the images' shapes, up to twice the short one.

    Args:
        sizes: (I, 2), height and width of the images in pixels.
        sides: (N,), square roots of the areas of the objects' boxes, in pixels of the images.
        base: long and short side of the config.

    Returns:
        Long and short side in pixels, and the reason.
    """
    short = float(np.median(sizes.min(1)))
    small = float(np.quantile(sides, 0.1))
    wanted = min(max(short, _SMALLEST * base[1]), base[1])
    needed = min(_SMALL_SIDE * short / small, _LARGEST * base[1])
    low = math.ceil(max(wanted, needed) / _MULTIPLE) * _MULTIPLE
    shape = float(np.quantile(sizes.max(1) / sizes.min(1), 0.9))
    high = max(low, round(low * min(shape, _LONGEST) / _MULTIPLE) * _MULTIPLE)
    height, width = np.median(sizes, axis=0)
    why = (f'the median image is {width:.0f} x {height:.0f}, and a tenth of the objects are under {small:.0f} px '
           f'there, {small * low / short:.0f} px when resized')
    return (high, low), why


def choose_anchor_scale(boxes: np.ndarray, factors: np.ndarray, strides: Sequence[int], ratios: Sequence[float],
                        base: float) -> tuple[float, str]:
    """Choose the scale of the anchors whose shapes fit the objects best.

    Args:
        boxes: (N, 2), width and height of the objects in pixels of their images.
        factors: (N,), by which their images are resized.
        strides: of the features, in pixels: anchors are ``scale * stride`` large.
        ratios: height by width of the anchors.
        base: the config's scale.

    Returns:
        The scale, and the reason.
    """
    fits = {scale: _mean_iou(boxes * factors[:, None], strides, ratios, scale) for scale in {base, *_SCALES}}
    best = max(fits, key=fits.__getitem__)
    scale = best if fits[best] - fits[base] >= _MIN_GAIN else base
    compared = f"the config's {base:g} has {fits[base]:.2f}" if scale != base else "the config's own"
    if scale == base != best:
        compared += f'; {best:g} gains less than {_MIN_GAIN}'
    why = (f'anchors of {scale * strides[0]:g} to {scale * strides[-1]:g} px have a mean IoU of {fits[scale]:.2f} with '
           f'objects of their shape; {compared}')
    return scale, why


def resize_factors(sizes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the factors (I,) by which ``Resize`` with ``keep_ratio`` brings images (I, 2) to a long and short side."""
    return np.minimum(size[0] / sizes.max(1), size[1] / sizes.min(1))


def _mean_iou(boxes: np.ndarray, strides: Sequence[int], ratios: Sequence[float], scale: float) -> float:
    """Return the mean over boxes (N, 2) of the IoU with the best of the anchors around the same centre."""
    side, ratio = scale * np.asarray(strides, float)[:, None], np.sqrt(np.asarray(ratios, float))[None]
    anchors = np.stack([side / ratio, side * ratio], -1).reshape(-1, 2)
    best = np.zeros(len(boxes))
    for anchor in anchors:
        shared = np.minimum(boxes, anchor).prod(1)
        best = np.maximum(best, shared / (boxes.prod(1) + anchor.prod() - shared))
    return float(best.mean())
