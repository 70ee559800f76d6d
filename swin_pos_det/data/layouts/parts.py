"""The parts of a data set, and what all layouts of its folders share."""
from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Optional

from ...errors import UserError
from ..images import image_size

IMAGE_ENDINGS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
PARTS = ('train', 'val')
_NAMES = dict(train='train', training='train', val='val', valid='val', validation='val', test='test')


class LayoutError(UserError, ValueError):
    """A folder of data has none of the known layouts, or one of its files is unusable."""


@dataclass(frozen=True)
class Part:
    """A part of a data set.

    Attributes:
        content: COCO annotations: a dict with images, annotations and categories.
        images: the folder of the images, absolute.
        source: the file or folder that it was read from.
        is_file: ``source`` is a COCO file with this content.
    """
    content: dict[str, Any]
    images: Path
    source: Path
    is_file: bool = False


def part_of(name: str) -> Optional[str]:
    """Return ``'train'``, ``'val'`` or ``'test'`` if a word of a file's or folder's name says so, else None."""
    found = [_NAMES[word] for word in re.split(r'[^a-z]+', name.lower()) if word in _NAMES]
    return found[0] if found else None


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_ENDINGS)


def build_part(images: Sequence[tuple[Path, Iterable[dict[str, Any]]]], folder: Path, classes: Sequence[str],
               source: Path) -> Part:
    """Build COCO annotations.

    Args:
        images: files with the ``bbox``, ``category_id`` (from 1) and perhaps more fields of their objects.
        folder: that holds all images.
        classes: names of the categories.
        source: see :class:`Part`.

    Raises:
        LayoutError: if an image is unreadable.
    """
    content: dict[str, Any] = dict(
        images=[], annotations=[], categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)])
    for image_id, (path, objects) in enumerate(images, 1):
        height, width = size_of(path)
        content['images'].append(
            dict(id=image_id, file_name=path.relative_to(folder).as_posix(), height=height, width=width))
        for item in objects:
            area = item['bbox'][2] * item['bbox'][3]
            content['annotations'].append({'id': len(content['annotations']) + 1, 'image_id': image_id, 'iscrowd': 0,
                                           'area': area, **item})
    return Part(content, folder.absolute(), source)


def size_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image in pixels, turned as its EXIF data say.

    Raises:
        LayoutError: if it is unreadable.
    """
    try:
        return image_size(str(path))[:2]
    except OSError as error:
        raise LayoutError(f'{path} is not readable as an image ({error})') from error


def split(part: Part, share: float = 0.2) -> dict[str, Part]:
    """Split images into training and validation, always in the same way: by a hash of their names.

    An image added later does not move the others. An image stays in the training if it has the last object of a
    class there.

    Args:
        part: of at least two images.
        share: of the images that is for validation.

    Raises:
        LayoutError: if nothing is left for validation.
    """
    images = sorted(part.content['images'], key=lambda image: hashlib.sha1(image['file_name'].encode()).digest())
    of_image: dict[Any, list[dict]] = {}
    for item in part.content['annotations']:
        of_image.setdefault(item['image_id'], []).append(item)
    left = Counter(item['category_id'] for item in part.content['annotations'])
    chosen: set[Any] = set()
    for image in images:
        own = Counter(item['category_id'] for item in of_image.get(image['id'], ()))
        if len(chosen) < ceil(share * len(images)) < len(images) and all(left[key] > n for key, n in own.items()):
            chosen.add(image['id'])
            left -= own
    if not any(image in of_image for image in chosen):
        raise LayoutError(f'{part.source} has {len(images)} images, and none with objects can be left out for '
                          'validation without the last object of a class: it needs more images')
    return {name: _subset(part, chosen, name == 'val') for name in PARTS}


def _subset(part: Part, chosen: set[Any], inside: bool) -> Part:
    content = dict(part.content)
    for name, key in (('images', 'id'), ('annotations', 'image_id')):
        content[name] = [item for item in content[name] if (item[key] in chosen) == inside]
    return replace(part, content=content, is_file=False)


def use_same_classes(parts: dict[str, Part]) -> dict[str, Part]:
    """Give the validation the categories of the training, in its order, and leave out unused super-categories.

    MMDetection numbers classes by the order of each file. Roboflow's files begin with a category without objects
    that is the super-category of the others.

    Raises:
        LayoutError: if the validation has objects of a class that the training does not have.
    """
    train, val = (parts[name].content for name in PARTS)
    names = [{category['id']: category['name'] for category in content['categories']} for content in (train, val)]
    used = {names[i].get(item['category_id']) for i, content in enumerate((train, val))
            for item in content['annotations']}
    parents = {category.get('supercategory') for category in train['categories']}
    kept = [category for category in train['categories'] if category['name'] in used
            or category['name'] not in parents]
    unknown = sorted(used - {None} - {category['name'] for category in kept})
    if unknown:
        raise LayoutError(f'{parts["val"].source} has objects of the class {unknown[0]!r}, which '
                          f'{parts["train"].source} does not have')
    if kept == train['categories'] == val['categories']:
        return parts
    new = {category['name']: category['id'] for category in kept}
    changed = {}
    for name, of_part in zip(PARTS, names):
        content = parts[name].content
        items = [{**item, 'category_id': new[of_part[item['category_id']]]} for item in content['annotations']
                 if item['category_id'] in of_part]
        changed[name] = replace(parts[name], content={**content, 'categories': kept, 'annotations': items},
                                is_file=parts[name].is_file and content['categories'] == kept)
    return changed


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, with their numbers from 1.

    Raises:
        LayoutError: if it is not UTF-8.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f'{path} cannot be read as text in UTF-8 ({error})') from error
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip())
