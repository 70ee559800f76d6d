"""A contact sheet of annotated images, to check the places of boxes."""
from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np

from ..data.images import ImageFileError, sample
from ..visualization import InstanceDrawer, contact_sheet, save_picture, to_rgb

_ROW_HEIGHT = 320


def write_annotation_sheet(content: dict[str, Any], folder: str, path: str, number: int = 24) -> Path:
    """Draw the boxes of some images with the names of their classes.

    Args:
        content: of an annotation file, checked.
        folder: of the images.
        path: of the picture.
        number: of images at most, spread evenly over readable ones with objects.

    Returns:
        The file.

    Raises:
        ImageFileError: if no image with objects is readable.
    """
    pictures = list(_pictures(content, folder, number))
    if not pictures:
        raise ImageFileError(f'no image with objects can be read from {folder}, so there is nothing to draw')
    return save_picture(contact_sheet(pictures, row_height=_ROW_HEIGHT), path)


def _pictures(content: dict[str, Any], folder: str, number: int) -> Iterator[np.ndarray]:
    labels = {category['id']: label for label, category in enumerate(content['categories'])}
    of_image: dict[Any, list[dict]] = {}
    for item in content['annotations']:
        if item['category_id'] in labels:
            of_image.setdefault(item['image_id'], []).append(item)
    drawer = InstanceDrawer([category['name'] for category in content['categories']])
    files = {osp.join(folder, image['file_name']): image for image in content['images'] if image['id'] in of_image}
    # OpenCV returns None for other files that it cannot read.
    readable = [file for file in files if osp.isfile(file) and osp.getsize(file)]
    for file in sample(readable, number):
        array, image = mmcv.imread(file), files[file]
        if array is None:
            continue
        items = of_image[image['id']]
        boxes = np.array([item['bbox'] for item in items], float)
        boxes[:, 2:] += boxes[:, :2]
        yield drawer.draw(to_rgb(array), [labels[item['category_id']] for item in items], boxes,
                          scale=_ROW_HEIGHT / array.shape[0])
