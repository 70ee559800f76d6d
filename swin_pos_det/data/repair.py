"""Repairing a copy of a COCO annotation file, as far as the right values are known."""
from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from .annotation_file import FilePath, check_annotations, check_classes
from .images import image_size
from .objects import Objects, loaded

_SECTIONS = ('images', 'categories', 'annotations')
# Fields of annotations that hold ids of other sections.
_REFERENCES = dict(images='image_id', categories='category_id')


def repair(content: Any, path: FilePath, folder: Optional[str] = None,
           classes: Optional[Sequence[str]] = None) -> tuple[dict[str, Any], list[str]]:
    """Repair annotations.

    Ids become integers, those of annotations 1, 2, ...; backslashes become slashes; sizes become those of the image
    files; a missing ``iscrowd`` becomes 0, a missing ``area`` that of the box; objects that ``CocoDataset`` would drop
    are removed, crowds are not; categories are sorted.

    Args:
        content: of the file; not changed.
        path: the file, for messages.
        folder: of the images. None: sizes stay.
        classes: names in the order that the categories must have; others follow. None: by id.

    Returns:
        The repaired content, and the changes, a line for each kind.

    Raises:
        CocoFileError: if a fault has no known repair, or a class has no category.
    """
    lists = [content.get(name) if isinstance(content, dict) else None for name in _SECTIONS]
    if not all(isinstance(items, list) and all(isinstance(item, dict) for item in items) for items in lists):
        check_annotations(content, path)
    repaired = {**content, **{name: [dict(item) for item in content[name]] for name in _SECTIONS}}
    changes = [_make_ids_integers(repaired, name) for name in _REFERENCES]
    ids_before = [item.get('id') for item in repaired['annotations']]
    _number(repaired['annotations'])
    changes += [_use_slashes(repaired['images']), *_add_fields(repaired['annotations'])]
    if folder is not None:
        changes.append(_correct_sizes(repaired['images'], folder))
    check_annotations(repaired, path)
    kept, tally = loaded(Objects(repaired))
    if tally.dropped:
        changes.append(f'{tally} (removed)')
        repaired['annotations'] = [item for item, keep in zip(repaired['annotations'], kept) if keep]
        _number(repaired['annotations'])
    changes.append(_sort_categories(repaired, path, classes))
    ids = [before for before, keep in zip(ids_before, kept) if keep]
    changed = sum(type(one) is not int or one != number for number, one in enumerate(ids, 1))
    if changed:
        changes.append(f'{changed} annotations have new ids: they are 1 to {len(ids)}')
    return repaired, [change for change in changes if change]


def is_integer(value: Any) -> bool:
    """Return whether a value of JSON is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _make_ids_integers(content: dict[str, Any], section: str) -> str:
    """Convert a section's ids, and references to them, to integers; renumber all if some are no numbers."""
    reference, items = _REFERENCES[section], content[section]
    ids = [item.get('id') for item in items]
    if not all(isinstance(value, (int, float, str)) for value in ids) or len(set(map(repr, ids))) < len(ids):
        return ''  # check_annotations names the invalid or repeated one
    numbers = [_integer(value) for value in ids]
    is_numbered = None in numbers or len(set(numbers)) < len(ids)
    new = list(range(1, len(ids) + 1)) if is_numbered else numbers
    exact = dict(zip(map(repr, ids), new))
    times = Counter(numbers)
    alike = {number: value for number, value in zip(numbers, new) if number is not None and times[number] == 1}
    changed = 0
    for item, key in [*((item, 'id') for item in items), *((item, reference) for item in content['annotations'])]:
        value = item.get(key)
        if not isinstance(value, (int, float, str)):
            continue
        number = exact.get(repr(value))
        if number is None:
            # No item has the id 0 once they are numbered, so an unknown id stays unknown.
            number = alike.get(_integer(value), 0) if is_numbered else _integer(value)
        if number is not None and repr(number) != repr(value):
            item[key], changed = number, changed + 1
    return f'{changed} ids of {section} {"numbered from 1" if is_numbered else "made integers"}' if changed else ''


def _integer(value: Any) -> Optional[int]:
    """Return the integer value of a number or text; None if there is none."""
    try:
        return int(value) if not isinstance(value, float) or value.is_integer() else None
    except ValueError:
        return None


def _use_slashes(images: list[dict]) -> str:
    changed = [image for image in images if isinstance(image.get('file_name'), str) and '\\' in image['file_name']]
    for image in changed:
        image['file_name'] = image['file_name'].replace('\\', '/')
    return f'{len(changed)} names of image files: backslashes are slashes' if changed else ''


def _add_fields(annotations: list[dict]) -> list[str]:
    flagless = [item for item in annotations if 'iscrowd' not in item]
    for item in flagless:
        item['iscrowd'] = 0
    arealess = [item for item in annotations if item.get('area') is None and _has_numbers(item.get('bbox'))]
    for item in arealess:
        item['area'] = item['bbox'][2] * item['bbox'][3]
    return [f'{len(flagless)} annotations got iscrowd 0' if flagless else '',
            f'{len(arealess)} annotations got the area of their box' if arealess else '']


def _has_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)


def _correct_sizes(images: list[dict], folder: str) -> str:
    changed = 0
    for image in images:
        try:
            height, width, _ = image_size(osp.join(folder, str(image.get('file_name'))))
        except (OSError, ValueError):
            continue  # the check of the images names it
        if (height, width) != (image.get('height'), image.get('width')):
            image.update(height=height, width=width)
            changed += 1
    return f'{changed} images have the sizes of their files (look at --sheet: are boxes where they belong?)' if (
        changed) else ''


def _sort_categories(content: dict[str, Any], path: FilePath, classes: Optional[Sequence[str]]) -> str:
    categories = content['categories']
    if classes is not None:
        check_classes(content, classes, path)
    places = {name: place for place, name in enumerate(classes or ())}
    ids = [category['id'] for category in categories]
    order = np.lexsort((ids, [places.get(category['name'], len(places)) for category in categories]))
    content['categories'] = [categories[index] for index in order]
    if content['categories'] == categories:
        return ''
    return (f'categories are in the order {", ".join(category["name"] for category in content["categories"][:5])}'
            f'{", ..." if len(categories) > 5 else ""}: labels of checkpoints trained on the other order do not fit')


def _number(annotations: list[dict]) -> None:
    for number, item in enumerate(annotations, 1):
        item['id'] = number
