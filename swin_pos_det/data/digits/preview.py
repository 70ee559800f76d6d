"""A contact sheet of a COCO folder's images with their boxes and masks."""
from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import cv2
import mmcv
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ...errors import MissingFileError, SettingError
from ...visualization import InstanceDrawer, contact_sheet


def preview_sheet(data_root: str | os.PathLike, split: str, num_images: int = 24, width: int = 1600,
                  row_height: int = 240) -> np.ndarray:
    """Draw the first images of a split, each without and, to the right, with its boxes and masks.

    Args:
        data_root: folder of the data set.
        split: ``'train'`` or ``'val'``.
        num_images: at most.
        width: of the sheet, px.
        row_height: every image is scaled to this height, px.

    Raises:
        FileNotFoundError: the folder has no such split.
        ValueError: ``num_images``, ``width`` or ``row_height`` is below 1.
    """
    for name, value in dict(num_images=num_images, width=width, row_height=row_height).items():
        if value < 1:
            raise SettingError(f'{name} must be at least 1, got {value}')
    ann_file = Path(data_root, 'annotations', f'{split}.json')
    if not ann_file.is_file():
        raise MissingFileError(f'no data set of digits at {data_root}: {ann_file} is missing')
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO(ann_file)
    categories = coco.dataset['categories']
    labels = {category['id']: label for label, category in enumerate(categories)}
    drawer = InstanceDrawer([category['name'] for category in categories])
    pairs = []
    for info in coco.dataset['images'][:num_images]:
        image = mmcv.imread(str(Path(data_root, split, info['file_name'])), channel_order='rgb')
        annotations = coco.imgToAnns[info['id']]
        marked = drawer.draw(
            image, [labels[annotation['category_id']] for annotation in annotations],
            boxes=[_corners(*annotation['bbox']) for annotation in annotations],
            masks=[coco_mask.decode(annotation['segmentation']) for annotation in annotations],
            texts=[categories[labels[annotation['category_id']]]['name'] + ' crowd' * annotation['iscrowd']
                   for annotation in annotations], scale=row_height / image.shape[0])
        plain = cv2.resize(image, marked.shape[1::-1], interpolation=cv2.INTER_AREA)
        pairs.append(np.hstack([plain, marked]))
    return contact_sheet(pairs, width, row_height)


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height
