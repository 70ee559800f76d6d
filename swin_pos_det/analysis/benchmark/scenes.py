"""Images with objects of COCO's sizes and shapes, loaded as a training loads them."""
from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np

Pair = Tuple[int, int]

# Shares of small, medium and large objects in COCO, and their sides from and to, in pixels of a 480 x 640 image.
COCO_SIZES = ((0.41, 8, 32), (0.34, 32, 96), (0.25, 96, 320))
COCO_SHORT_SIDE = 480
OBJECTS = 7  # COCO has 7.3 per image


def coco_like_objects(count: int, size: Pair, num_classes: int, seed: int) -> List[Dict[str, Any]]:
    """Draw objects with polygons, as mmdet's ``CocoDataset`` hands them to a pipeline.

    Args:
        count: objects.
        size: (h, w) of the image in pixels.
        num_classes: labels are below it.
        seed: the same objects for the same seed.

    Returns:
        For each object ``bbox`` (x1, y1, x2, y2), ``bbox_label``, ``mask`` (one polygon) and ``ignore_flag``.
    """
    random, (height, width) = np.random.default_rng(seed), size
    shares = np.array([share for share, _, _ in COCO_SIZES])
    objects = []
    for kind in random.choice(len(COCO_SIZES), count, p=shares / shares.sum()):
        _, low, high = COCO_SIZES[kind]
        side = np.exp(random.uniform(np.log(low), np.log(high))) * min(size) / COCO_SHORT_SIDE
        stretch = np.exp(random.normal(0, 0.35))
        radii = np.array([min(side * stretch, width), min(side / stretch, height)]) / 2
        center = random.uniform(radii, np.array([width, height]) - radii)
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(12, 40)))
        reach = random.uniform(0.6, 1, (len(angles), 1))
        corners = center + radii * reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        objects.append(dict(bbox=[*corners.min(0).tolist(), *corners.max(0).tolist()], ignore_flag=0,
                            bbox_label=int(random.integers(num_classes)), mask=[corners.ravel().tolist()]))
    return objects


class Scenes:
    """A data set of images of noise with such objects, whose pipeline is mmdet's.

    Args:
        number: of images.
        size: (h, w) in pixels.
        num_classes: labels are below it.
        with_mask: load masks.
    """

    def __init__(self, number: int, size: Pair, num_classes: int, with_mask: bool) -> None:
        from mmcv.transforms import Compose
        self.pipeline = Compose([dict(type='LoadAnnotations', with_bbox=True, with_mask=with_mask),
                                 dict(type='PackDetInputs')])
        self._number, self._size, self._num_classes = number, size, num_classes

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: int) -> Dict[str, Any]:
        image = np.random.default_rng(index).integers(0, 256, (*self._size, 3), np.uint8)
        return self.pipeline(dict(
            img=image, img_id=index, img_path='', ori_shape=self._size, img_shape=self._size, scale_factor=(1., 1.),
            flip=False, flip_direction=None, height=self._size[0], width=self._size[1],
            instances=coco_like_objects(OBJECTS, self._size, self._num_classes, index)))
