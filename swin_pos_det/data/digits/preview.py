"""A contact sheet of a COCO folder's images with their boxes and masks, for people to look at."""
from __future__ import annotations

import colorsys
import contextlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ...errors import MissingFileError, SettingError

GAP = 9  # px between images


def _outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the mask's pixels that touch a pixel outside it."""
    inner = np.pad(mask, 1)
    return mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


def _annotated(image: Image.Image, annotations: list[dict], names: dict[int, str]) -> Image.Image:
    pixels = np.asarray(image.convert('RGB')).astype(float)
    colors = [tuple(int(255 * c) for c in colorsys.hsv_to_rgb(k * .381 % 1, 1, 1)) for k in range(len(annotations))]
    for annotation, color in zip(annotations, colors):
        mask = coco_mask.decode(annotation['segmentation']).astype(bool)
        pixels[mask] = .7 * pixels[mask] + .3 * np.array(color)
        pixels[_outline(mask)] = color
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for annotation, color in zip(annotations, colors):
        x, y, w, h = annotation['bbox']
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=color)
        text = names[annotation['category_id']] + (' crowd' if annotation['iscrowd'] else '')
        box = draw.textbbox((x + 1, y), text)
        draw.rectangle(box, fill=(0, 0, 0))
        draw.text((x + 1, y), text, fill=color)
    return image


def contact_sheet(data_root: str | os.PathLike, split: str, num_images: int = 24, width: int = 1600,
                  row_height: int = 240) -> Image.Image:
    """Draw the first images of a split, each as it is and, right of that, with its boxes and masks.

    Args:
        data_root: folder of the data set.
        split: ``'train'`` or ``'val'``.
        num_images: how many, at most.
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
    names = {category['id']: category['name'] for category in coco.dataset['categories']}
    pairs = []
    for info in coco.dataset['images'][:num_images]:
        size = (round(info['width'] * row_height / info['height']), row_height)
        with Image.open(Path(data_root, split, info['file_name'])) as file:
            plain = file.convert('RGB')
        marked = _annotated(plain, coco.imgToAnns[info['id']], names)
        pair = Image.new('RGB', (2 * size[0] + GAP // 3, row_height), 'white')
        pair.paste(plain.resize(size), (0, 0))
        pair.paste(marked.resize(size), (size[0] + GAP // 3, 0))
        pairs.append(pair)
    return _in_rows(pairs, width)


def _in_rows(images: list[Image.Image], width: int) -> Image.Image:
    """Images of one height side by side, in as many rows as they need."""
    places, x, y = [], 0, 0
    for image in images:
        if x and x + image.width > width:
            x, y = 0, y + image.height + GAP
        places.append((x, y))
        x += image.width + GAP
    sheet = Image.new('RGB', (max(width, *(image.width for image in images)), y + images[0].height), 'white')
    for image, place in zip(images, places):
        sheet.paste(image, place)
    return sheet
