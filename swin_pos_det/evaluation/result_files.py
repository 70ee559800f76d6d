"""Reading COCO results from disk, with checks and clear messages."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

from pycocotools import mask as rle
from pycocotools.coco import COCO

from ..data.annotation_file import CocoFileError, FilePath, read_json
from ..data.masks import rle_problems

# The fields by which a data set of predictions is matched with the ground truth.
_DATASET_FIELDS = dict(images=('id', 'file_name'), categories=('id', 'name'), annotations=('image_id', 'category_id'))


def load_results(path: FilePath, gt: COCO, dataset: Optional[str] = None) -> list[dict[str, Any]]:
    """Read detections and check them against the annotations they are for.

    Args:
        path: COCO results, a list of dicts with ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, w, h) or
            ``segmentation`` (RLE) or both; ``mask_score``, if there, is the score of the mask. Or a data set with
            such annotations, as ``tools/infer.py`` writes it: its images are found in ``gt`` by ``file_name``,
            its categories by ``name``.
        gt: the annotations.
        dataset: the one to read if the file holds results of several data sets, as ``tools/test.py`` writes them.

    Returns:
        The detections with the ids of ``gt``; none if the file has none.

    Raises:
        CocoFileError: if the file is something else, or a detection is invalid: an image or category that
            ``gt`` lacks, a box or score that is not finite, a box of negative size, a mask of another image; if
            there is no such ``dataset``, or there are several and none is chosen.
    """
    found = read_json(path)
    if isinstance(found, dict) and {'images', 'annotations', 'categories'} <= set(found):
        found = _with_ids_of(found, gt, path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise CocoFileError(f'{path} holds no COCO results: they are a list of dicts with image_id, category_id, score '
                            'and bbox or segmentation')
    found = _of_dataset(found, dataset, path)
    for index, item in enumerate(found):
        lacking = [key for key in ('image_id', 'category_id', 'score') if key not in item]
        if lacking or not ('bbox' in item or 'segmentation' in item):
            raise CocoFileError(f'{path}: detection {index} has no {lacking[0] if lacking else "bbox or segmentation"}')
    _check_ids(path, 'image', [item['image_id'] for item in found], set(gt.imgs))
    _check_ids(path, 'category', [item['category_id'] for item in found], set(gt.cats))
    for index, item in enumerate(found):
        _check_numbers(path, index, item)
    _check_masks(path, found, gt)
    return found


def _of_dataset(found: list[dict[str, Any]], dataset: Optional[str], path: FilePath) -> list[dict[str, Any]]:
    """Return the results of one of several data sets."""
    names = list(dict.fromkeys(str(item['dataset']) for item in found if 'dataset' in item))
    if dataset is None and len(names) > 1:
        raise CocoFileError(f'{path} holds results of the data sets {", ".join(names)}: choose one, with --dataset '
                            f'{names[0]} for instance')
    if dataset is not None and dataset not in names:
        raise CocoFileError(f'{path} has no results of a data set {dataset!r}; it has '
                            f'{", ".join(names) or "those of one data set, which has no name"}')
    return found if dataset is None else [item for item in found if str(item.get('dataset')) == dataset]


def _with_ids_of(dataset: dict[str, Any], gt: COCO, path: FilePath) -> list[dict[str, Any]]:
    """Return the annotations of a data set of predictions, with the ids of ``gt`` for their images and categories."""
    for name, fields in _DATASET_FIELDS.items():
        for index, item in enumerate(dataset[name]):
            lacking = [key for key in fields if not isinstance(item, dict) or key not in item]
            if lacking:
                raise CocoFileError(f'{path}: entry {index} of {name} has no {lacking[0]}')
    # Both may name images from folders of their own; only then compare the last parts of their names.
    images = _translation(path, 'image', dataset['images'], gt.dataset['images'],
                          [lambda item: item['file_name'], lambda item: Path(item['file_name']).name])
    categories = _translation(path, 'category', dataset['categories'], gt.dataset['categories'],
                              [lambda item: item['name']])
    _check_ids(path, 'image', [item['image_id'] for item in dataset['annotations']], set(images), 'its own images')
    _check_ids(path, 'category', [item['category_id'] for item in dataset['annotations']], set(categories),
               'its own categories')
    return [dict(item, image_id=images[item['image_id']], category_id=categories[item['category_id']])
            for item in dataset['annotations']]


def _translation(path: FilePath, what: str, theirs: list[dict], ours: list[dict],
                 ways: Sequence[Callable[[dict], str]]) -> dict[Any, Any]:
    """Map their ids to our ids by name, by the first key under which we have all of their names."""
    unknown: list[str] = []
    for name_of in ways:
        known, names = {name_of(item): item['id'] for item in ours}, [name_of(item) for item in theirs]
        unknown = [name for name in names if name not in known]
        if not unknown:
            break
    if unknown:
        raise CocoFileError(f'{path}: the ground truth has no {what} named {unknown[0]!r} (nor {len(unknown) - 1} '
                            f'others of {len(theirs)})')
    uses = Counter(names), Counter(map(name_of, ours))
    twice = [name for name in names if max(use[name] for use in uses) > 1]
    if twice:
        raise CocoFileError(f'{path}: several {what}s are named {twice[0]!r}: give them the names of the ground '
                            'truth')
    return {item['id']: known[name] for item, name in zip(theirs, names)}


def _check_ids(path: FilePath, what: str, used: list[Any], known: set, owner: str = 'the ground truth') -> None:
    wrong = [value for value in used if not isinstance(value, (int, float, str)) or value not in known]
    if wrong:
        ids = sorted(known, key=lambda value: (isinstance(value, str), value))
        kinds = ''
        if isinstance(wrong[0], (int, float, str)) and str(wrong[0]) in map(str, ids):
            kinds = ' (one of them is a number, the other text)'
        raise CocoFileError(f'{path}: {len(wrong)} of {len(used)} detections have a {what}_id that is not in {owner}, '
                            f'such as {wrong[0]!r}; the {len(ids)} ids go from {ids[0]!r} to {ids[-1]!r}{kinds}')


def _check_numbers(path: FilePath, index: int, item: dict[str, Any]) -> None:
    box = item.get('bbox', [0] * 4)
    if not isinstance(box, list) or len(box) != 4 or not _all_finite(box):
        raise CocoFileError(f'{path}: detection {index} has bbox {box}; it must be four finite numbers, x, y, w, h')
    if box[2] < 0 or box[3] < 0:
        raise CocoFileError(f'{path}: detection {index} has bbox {box}, which has a negative size; it must be x, y, w, '
                            'h')
    if not _all_finite([item['score'], item.get('mask_score', 0)]):
        key = 'mask_score' if _all_finite([item['score']]) else 'score'
        raise CocoFileError(f'{path}: detection {index} has {key} {item[key]!r}; it must be a finite number')


def _all_finite(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def _check_masks(path: FilePath, found: list[dict[str, Any]], gt: COCO) -> None:
    """Check run-length masks against their images, and compress the ones that are not."""
    masked = [index for index, item in enumerate(found) if 'segmentation' in item]
    sizes = [(gt.imgs[found[index]['image_id']]['height'], gt.imgs[found[index]['image_id']]['width'])
             for index in masked]
    problems = rle_problems([found[index]['segmentation'] for index in masked], sizes)
    for place, problem in problems.items():
        raise CocoFileError(f'{path}: the mask of detection {masked[place]} (image {found[masked[place]]["image_id"]}) '
                            f'{problem}; {len(problems)} of {len(masked)} masks are wrong')
    for index, (height, width) in zip(masked, sizes):
        if isinstance(found[index]['segmentation']['counts'], list):
            found[index]['segmentation'] = rle.frPyObjects(found[index]['segmentation'], height, width)
