"""Loading annotations with masks that keep only the rectangle around each object."""
from __future__ import annotations

from typing import Any, Dict, List, Union

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from pycocotools import mask as coco_mask

from .compact_masks import CompactMasks, Crop, crop_of

# pycocotools rounds the corners of polygons to fifths of a pixel before it draws them (rleFrPoly in its maskApi.c).
FIFTHS = 5


@TRANSFORMS.register_module()
class LoadCompactAnnotations(LoadAnnotations):
    """mmdet's ``LoadAnnotations`` whose ``gt_masks`` are :class:`~.compact_masks.CompactMasks`: the same pixels.

    Args:
        **kwargs: those of ``LoadAnnotations``. With ``poly2mask=False`` masks stay polygons, as there.
    """

    def _load_masks(self, results: Dict[str, Any]) -> None:
        if not self.poly2mask:
            super()._load_masks(results)
            return
        height, width = results['ori_shape']
        crops = [self._crop(mask, height, width) for mask in self._process_masks(results)]
        results['gt_masks'] = CompactMasks.from_crops(crops, height, width)

    def _crop(self, mask: Union[List[np.ndarray], Dict[str, Any]], height: int, width: int) -> Crop:
        if not isinstance(mask, list):
            return crop_of(self._poly2mask(mask, height, width))
        return draw_polygons(mask, height, width)


def draw_polygons(polygons: List[np.ndarray], height: int, width: int) -> Crop:
    """Draw the union of polygons as pycocotools does, on no more than the rectangle around them.

    Moving a polygon by whole pixels moves its pixels, if its corners are first rounded to pycocotools' grid.

    Args:
        polygons: each (2 K,) with K >= 3 corners x, y in pixels.
        height: of the image.
        width: of the image.

    Returns:
        The smallest rectangle that holds all pixels.
    """
    corners = [(np.asarray(polygon, float) * FIFTHS + 0.5).astype(np.int64).reshape(-1, 2) for polygon in polygons]
    every = np.concatenate(corners)
    left, top = np.clip(every.min(0) // FIFTHS, 0, (width - 1, height - 1)).tolist()
    right, bottom = np.clip(every.max(0) // FIFTHS + 2, (left + 1, top + 1), (width, height)).tolist()
    moved = [(points - (left * FIFTHS, top * FIFTHS)).ravel() for points in corners]
    # It rounds by adding 0.5 and truncating, so a negative number must be slightly below the intended one.
    again = [np.where(numbers < 0, numbers - 0.75, numbers) / FIFTHS for numbers in moved]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(again, bottom - top, right - left)))
    y, x, pixels = crop_of(drawn)
    return Crop(top + y, left + x, pixels)
