"""Reading COCO annotation files, and checking that mmdet and pycocotools can use their content.

Both check nothing: a missing field is a ``KeyError`` somewhere, a class missing from the file shifts the labels of all
later ones, and objects with ids of another type are never matched.
"""
from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Callable, Optional, Tuple, Union

from ..errors import UserError
from .masks import rle_problems

FilePath = Union[str, Path]

# A check of one value, and a fast one of many at once that may reject too many.
Rule = Tuple[Callable[[Any], bool], Callable[[list], bool]]


class CocoFileError(UserError, ValueError):
    """A file of annotations or results is unusable; the message names it and says what is wrong."""


def read_json(path: FilePath) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        CocoFileError: if it does not exist, or is not JSON.
    """
    if not Path(path).is_file():
        raise CocoFileError(f'{path} does not exist')
    if str(path).endswith(('.pkl', '.pickle')):
        raise CocoFileError(f'{path} is a pickle, which could run code when it is read: write the results with '
                            '--out FILE.json instead')
    try:
        with no_garbage_collection():
            return json.loads(Path(path).read_bytes())
    except UnicodeDecodeError as error:
        raise CocoFileError(f'{path} is not JSON in UTF-8 ({error}): save it as UTF-8') from error
    except (ValueError, RecursionError) as error:
        raise CocoFileError(f'{path} is not JSON ({error})') from error


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection while a large file makes millions of lists: it finds nothing and doubles the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def check_encoding(path: FilePath) -> None:
    """Check that mmdet can read a file that :func:`read_json` can: it opens files as plain UTF-8.

    Raises:
        CocoFileError: if the file is in another encoding or starts with a byte order mark, with the command that
            rewrites it.
    """
    with open(path, 'rb') as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding != 'utf-8':
        what = 'UTF-8 with a byte order mark' if encoding == 'utf-8-sig' else encoding.upper()
        raise CocoFileError(f'{path} is {what}, which MMDetection cannot read. Write it as plain UTF-8: '
                            f'python tools/analysis_tools/check_coco.py {path} --fix OUT.json')


def check_annotations(dataset: Any, path: FilePath, evaluated: bool = True, annotated: bool = True,
                      loaded: bool = True, classes: Optional[Sequence[str]] = None) -> None:
    """Check that mmdet and pycocotools can work with annotations.

    Args:
        dataset: content of the file.
        path: the file, for messages.
        evaluated: whether AP will be computed against them, which needs more than a training does.
        annotated: whether there must be annotations; otherwise images are enough.
        loaded: whether images will be loaded, by their ``file_name``.
        classes: names of the categories that count. Default: all.

    Raises:
        CocoFileError: if ``dataset`` is not a dict with images, categories and annotations; if one of these lacks a
            field or has an invalid one; if ids are not unique; or if no annotation belongs to an image, or to a
            category.
    """
    if not isinstance(dataset, dict):
        raise CocoFileError(f'{path} holds a {type(dataset).__name__}: COCO annotations are a dict with images, '
                            'annotations and categories')
    for name, fields in _FIELDS.items():
        items = dataset.get(name)
        needed = annotated or name == 'images'
        if not needed and (items == [] or name not in dataset):
            continue
        if not isinstance(items, list) or not items:
            raise CocoFileError(f'{path} has no {name}')
        wanted = {key: rule for key, rule in fields.items() if loaded or key != 'file_name'}
        _check_fields(items, wanted, f'{path}: {_SINGULAR[name]}')
        for key in ('id', 'name') if name == 'categories' else ('id', ):
            values = [item[key] for item in items if key != 'name' or classes is None or item[key] in classes]
            if len(set(values)) < len(values):
                value, times = max(Counter(values).items(), key=itemgetter(1))
                raise CocoFileError(f'{path}: {times} {name} have the {key} {value!r}; it must be unique')
    found = dataset.get('annotations') or []
    if evaluated:
        _check_fields(_counted(dataset, classes), dict(iscrowd=(_is_flag, _are_flags)), f'{path}: annotation')
    for name, key in (('images', 'image_id'), ('categories', 'category_id')):
        ids = {item['id'] for item in dataset.get(name) or []}
        if found and ids and ids.isdisjoint(map(itemgetter(key), found)):
            raise CocoFileError(f'{path}: no annotation belongs to one of the {name}: their ids are such as '
                                f'{[dataset[name][0]["id"]]}, and {key} of annotations is such as {found[0][key]!r}')


def check_masks(dataset: dict[str, Any], path: FilePath, evaluated: bool = True,
                classes: Optional[Sequence[str]] = None, kept: Optional[Iterable[bool]] = None) -> None:
    """Check that all annotations that count have a valid mask for their image, after :func:`check_annotations`.

    Args:
        dataset: content of the file.
        path: the file, for messages.
        evaluated: whether pycocotools will read the masks. In a training mmdet leaves unusable polygons out, which
            :func:`swin_pos_det.data.objects.learned` counts.
        classes: names of the categories that count. Default: all.
        kept: for each annotation, whether it counts, instead of ``classes``.

    Raises:
        CocoFileError: for an annotation whose ``segmentation`` is neither polygons nor RLE, or an RLE that does not
            fit its image.
    """
    counted = _counted(dataset, classes)
    if kept is not None:
        counted = [item if keep else None for item, keep in zip(dataset.get('annotations') or [], kept)]
    rule = (_is_mask, _are_masks) if evaluated else (_may_be_mask, _may_be_masks)
    _check_fields(counted, dict(segmentation=rule), f'{path}: annotation')
    sizes = {image['id']: (image['height'], image['width']) for image in dataset['images']}
    places = [index for index, item in enumerate(counted)
              if item and isinstance(item['segmentation'], dict) and item['image_id'] in sizes]
    items = [counted[index] for index in places]
    problems = rle_problems([item['segmentation'] for item in items], [sizes[item['image_id']] for item in items])
    for index, problem in problems.items():
        more = f' (and {len(problems) - 1} more like it)' if len(problems) > 1 else ''
        raise CocoFileError(f'{path}: the mask of annotation {places[index]}{_named(items[index])} {problem}{more}')


def check_classes(dataset: dict[str, Any], classes: Sequence[str], path: FilePath) -> None:
    """Check that a file has a category for each class of a dataset, after :func:`check_annotations`.

    mmdet numbers classes in the order of the file. Without an error a class that the file lacks would give all later
    ones the label of another. Categories that are not among the classes are left out, as subsets of COCO need.

    Args:
        dataset: content of the file.
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


def _counted(dataset: dict[str, Any], classes: Optional[Sequence[str]]) -> list[Any]:
    """Return the annotations in order, with None for those whose category does not count."""
    ids = {item['id'] for item in dataset.get('categories') or [] if classes is None or item['name'] in classes}
    return [item if item['category_id'] in ids else None for item in dataset.get('annotations') or []]


def _check_fields(items: list[Any], wanted: dict[str, Rule], what: str) -> None:
    """Raise for the first item that lacks a field or has an invalid one; ignore None, except for an id."""
    if all(_all_right(items, key, rule[1]) for key, rule in wanted.items()):
        return
    for index, item in enumerate(items):
        if item is None and 'id' not in wanted:
            continue
        if not isinstance(item, dict):
            raise CocoFileError(f'{what} {index} is a {type(item).__name__}, not a dict')
        for key, (is_right, _) in wanted.items():
            if key not in item:
                raise CocoFileError(f'{what} {index}{_named(item)} has no {key}')
            if not is_right(item[key]):
                raise CocoFileError(f'{what} {index}{_named(item)} has {key} {_short(item[key])}; it must be '
                                    f'{_KINDS[is_right]}')


def _all_right(items: list[Any], key: str, are_right: Callable[[list], bool]) -> bool:
    try:
        return are_right([item[key] for item in items if item is not None or key == 'id'])
    except (TypeError, KeyError, OverflowError):
        return False


def _named(item: dict) -> str:
    return f' (id {_short(item["id"])})' if 'id' in item else ''


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _types(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and value == value


def _are_ids(values: list) -> bool:
    return _types(values) <= {int, str}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_text(values: list) -> bool:
    return _types(values) <= {str}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _are_numbers(values: list) -> bool:
    return _types(values) <= {int, float} and math.isfinite(sum(values))


def _is_size(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_sizes(values: list) -> bool:
    return _are_numbers(values) and min(values) > 0


def _is_flag(value: Any) -> bool:
    return value in (0, 1)


def _are_flags(values: list) -> bool:
    return set(values) <= {0, 1}


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _are_boxes(values: list) -> bool:
    flat = list(chain.from_iterable(values))
    return _types(values) <= {list} and set(map(len, values)) <= {4} and _are_numbers(flat)


def _may_be_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get('counts'), (list, str)) and isinstance(value.get('size'), list)
    return isinstance(value, list) and len(value) > 0 and all(isinstance(polygon, list) for polygon in value)


def _may_be_masks(values: list) -> bool:
    return all(map(_may_be_mask, values))


def _is_mask(value: Any) -> bool:
    # pycocotools takes a first list of 4 numbers for a box; shorter ones after it are degenerate but harmless.
    return _may_be_mask(value) and (isinstance(value, dict) or len(value[0]) >= 6 and all(
        _is_number(number) for polygon in value for number in polygon))


def _are_masks(values: list) -> bool:
    polygons = [value for value in values if isinstance(value, list)]
    return _may_be_masks(values) and all(len(value[0]) >= 6 for value in polygons) and (
        math.isfinite(sum(map(sum, chain.from_iterable(polygons)))))


# Descriptions of valid values, for messages.
_KINDS: dict[Callable[[Any], bool], str] = {
    _is_id: 'a number or text',
    _is_text: 'text',
    _is_number: 'a finite number',
    _is_size: 'a number of pixels above 0',
    _is_flag: '0 or 1',
    _is_box: 'four finite numbers, x, y, w, h',
    _may_be_mask: 'RLE, a dict with counts and size, or polygons, a list of lists of numbers x1, y1, x2, ...',
    _is_mask: 'RLE, a dict with counts and size, or polygons, a list of lists of at least 6 numbers x1, y1, x2, ...',
}
_SINGULAR = dict(images='image', categories='category', annotations='annotation')
_ID: Rule = (_is_id, _are_ids)
_FIELDS: dict[str, dict[str, Rule]] = dict(
    images=dict(id=_ID, file_name=(_is_text, _are_text), height=(_is_size, _are_sizes), width=(_is_size, _are_sizes)),
    categories=dict(id=_ID, name=(_is_text, _are_text)),
    annotations=dict(id=_ID, image_id=_ID, category_id=_ID, bbox=(_is_box, _are_boxes),
                     area=(_is_number, _are_numbers)))
