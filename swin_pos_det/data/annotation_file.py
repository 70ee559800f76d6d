"""Reading COCO annotation files, and saying in one line what is wrong with one before hours depend on it.

mmdet and pycocotools take what they find: a missing field is a ``KeyError`` somewhere, a class that the file does not
have shifts the labels of all later ones, and ids of another type are objects that nobody looks for.
"""
from __future__ import annotations

import gc
import json
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Optional, Union

from ..errors import UserError

FilePath = Union[str, Path]


class CocoFileError(UserError, ValueError):
    """A file of annotations or results cannot be used; the message names it and says what is wrong."""


def read_json(path: FilePath) -> Any:
    """What a JSON file holds.

    Raises:
        CocoFileError: if it is not there, or not JSON.
    """
    if not Path(path).is_file():
        raise CocoFileError(f'{path} does not exist')
    if str(path).endswith(('.pkl', '.pickle')):
        raise CocoFileError(f'{path} is a pickle, which could run code when it is read: write the results with '
                            '--out FILE.json instead')
    collects = gc.isenabled()
    gc.disable()  # millions of new lists and none of them garbage: looking at them again and again doubles the time
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise CocoFileError(f'{path} is not JSON ({error})') from error
    finally:
        if collects:
            gc.enable()


def check_annotations(dataset: Any, path: FilePath, evaluated: bool = True, annotated: bool = True,
                      loaded: bool = True, classes: Optional[Sequence[str]] = None) -> None:
    """Checks that mmdet and pycocotools can work with annotations.

    Args:
        dataset: what the file holds.
        path: the file, for messages.
        evaluated: whether AP will be computed against them, which takes more than a training does.
        annotated: whether there must be annotations; where not, images are all that is wanted.
        loaded: whether images will be, by their ``file_name``.
        classes: names of the categories that count. Default: all.

    Raises:
        CocoFileError: if ``dataset`` is no dict with images, categories and annotations; if one of these lacks a field
            or has one that cannot be; if ids are not unique; or if no annotation belongs to an image, or to a category.
    """
    if not isinstance(dataset, dict):
        raise CocoFileError(f'{path} holds a {type(dataset).__name__}: COCO annotations are a dict with images, '
                            'annotations and categories')
    for name, fields in _FIELDS.items():
        items = dataset.get(name)
        needed = annotated or name == 'images'
        if not needed and not items:
            continue
        if not isinstance(items, list) or not items:
            raise CocoFileError(f'{path} has no {name}')
        wanted = {key: is_right for key, is_right in fields.items() if loaded or key != 'file_name'}
        _check_fields(items, wanted, f'{path}: {_SINGULAR[name]}')
        for key in ('id', 'name') if name == 'categories' else ('id', ):
            values = (item[key] for item in items if key != 'name' or classes is None or item[key] in classes)
            value, times = max(Counter(values).items(), key=itemgetter(1), default=(None, 0))
            if times > 1:
                raise CocoFileError(f'{path}: {times} {name} have the {key} {value!r}; it must be unique')
    found = dataset.get('annotations') or []
    if evaluated:
        _check_fields(_counted(dataset, classes), dict(iscrowd=_is_flag), f'{path}: annotation')
    for name, key in (('images', 'image_id'), ('categories', 'category_id')):
        ids = [item['id'] for item in dataset.get(name) or []]
        if found and set(ids).isdisjoint(item[key] for item in found):
            raise CocoFileError(f'{path}: no annotation belongs to one of the {name}: their ids are such as '
                                f'{ids[:1]}, and {key} of annotations is such as {found[0][key]!r}')


def check_masks(dataset: dict[str, Any], path: FilePath, evaluated: bool = True,
                classes: Optional[Sequence[str]] = None) -> None:
    """Checks that all annotations that count have a mask, after :func:`check_annotations`.

    Args:
        dataset: what the file holds.
        path: the file, for messages.
        evaluated: whether pycocotools will read the masks. In a training mmdet leaves polygons out that are none.
        classes: names of the categories that count. Default: all.

    Raises:
        CocoFileError: for an annotation whose ``segmentation`` is neither RLE nor polygons.
    """
    counted = _counted(dataset, classes)
    if not evaluated:  # what mmdet leaves out before it looks at masks
        counted = [item if item and item['area'] > 0 and not item.get('ignore') else None for item in counted]
    _check_fields(counted, dict(segmentation=_is_mask if evaluated else _may_be_mask), f'{path}: annotation')


def check_classes(dataset: dict[str, Any], classes: Sequence[str], path: FilePath) -> None:
    """Checks that the categories of a file are the classes of a dataset, after :func:`check_annotations`.

    mmdet numbers classes in the order of the file and shows them by the names of the dataset. Without an error a class
    that the file lacks would give all later ones the label of another. Categories that are not among the classes are
    left out, as many a subset of COCO wants it.

    Args:
        dataset: what the file holds.
        classes: of the dataset's metainfo.
        path: the file, for messages.

    Raises:
        CocoFileError: if a class has no category.
    """
    names = [category['name'] for category in dataset['categories']]
    missing = [name for name in classes if name not in names]
    if missing:
        few = ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
        raise CocoFileError(
            f"{path} has no category named {missing[0]!r} (nor {len(missing) - 1} others of the dataset's "
            f'{len(classes)} classes); it has {few}. Give the dataset the names that are in the file: '
            f'metainfo=dict(classes=(...)), and the heads as many num_classes')
    if [name for name in names if name in classes] != list(classes):
        warnings.warn(f"{path} has its categories in another order than the dataset's classes: mmdet numbers them by "
                      'the file, so pictures and predictions will name them wrongly. Give metainfo=dict(classes=(...)) '
                      'in the order of the file', stacklevel=2)


def _counted(dataset: dict[str, Any], classes: Optional[Sequence[str]]) -> list[Any]:
    """The annotations, in their places; None for those whose category does not count."""
    ids = {item['id'] for item in dataset.get('categories') or [] if classes is None or item['name'] in classes}
    return [item if item['category_id'] in ids else None for item in dataset.get('annotations') or []]


def _check_fields(items: list[Any], wanted: dict[str, Any], what: str) -> None:
    for index, item in enumerate(items):
        if item is None and 'id' not in wanted:
            continue
        if not isinstance(item, dict):
            raise CocoFileError(f'{what} {index} is a {type(item).__name__}, not a dict')
        for key, is_right in wanted.items():
            if key not in item:
                raise CocoFileError(f'{what} {index}{_named(item)} has no {key}')
            if not is_right(item[key]):
                raise CocoFileError(f'{what} {index}{_named(item)} has {key} {_short(item[key])}; it must be '
                                    f'{is_right.__doc__}')


def _named(item: dict) -> str:
    return f' (id {_short(item["id"])})' if 'id' in item else ''


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _is_id(value: Any) -> bool:
    """a number or text"""
    return isinstance(value, (int, float, str))


def _is_text(value: Any) -> bool:
    """text"""
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """a finite number"""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    """a number of pixels above 0"""
    return _is_number(value) and value > 0


def _is_flag(value: Any) -> bool:
    """0 or 1"""
    return value in (0, 1)


def _is_box(value: Any) -> bool:
    """four finite numbers, x, y, w, h"""
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _may_be_mask(value: Any) -> bool:
    """RLE, a dict with counts and size, or polygons, a list of lists of numbers x1, y1, x2, ..."""
    if isinstance(value, dict):
        return isinstance(value.get('counts'), (list, str)) and isinstance(value.get('size'), list)
    return isinstance(value, list) and len(value) > 0 and all(isinstance(polygon, list) for polygon in value)


def _is_mask(value: Any) -> bool:
    """RLE, a dict with counts and size, or polygons, a list of lists of at least 6 numbers x1, y1, x2, ..."""
    # pycocotools takes a first list of 4 numbers for a box; shorter ones after it are degenerate but harmless.
    return _may_be_mask(value) and (isinstance(value, dict) or len(value[0]) >= 6 and all(
        _is_number(number) for polygon in value for number in polygon))


_SINGULAR = dict(images='image', categories='category', annotations='annotation')
_FIELDS = dict(
    images=dict(id=_is_id, file_name=_is_text, height=_is_size, width=_is_size),
    categories=dict(id=_is_id, name=_is_text),
    annotations=dict(id=_is_id, image_id=_is_id, category_id=_is_id, bbox=_is_box, area=_is_number))
