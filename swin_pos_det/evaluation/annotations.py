"""The ground truth of an evaluation: COCO annotations, read with checks, with ids that every evaluator can read."""
from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from mmdet.datasets.api_wrappers import COCO

from ..data.annotation_file import CocoFileError, FilePath, check_annotations, read_json


@dataclass(frozen=True)
class NumberedCoco:
    """COCO annotations with ids 1, 2, ...

    pycocotools treats a match with annotation 0 as no match, and NumPy converts all ids to text if one is text;
    faster-coco-eval reads ids as C++ integers. Ids keep their order, on which the order of detections of equal score
    depends.

    Attributes:
        coco: the annotations of known images and categories, with only the fields that an evaluation reads. Evaluators
            modify it.
        images: image id of the file -> number.
        categories: category id of the file -> number.
        names: the names of the categories, by number.
    """
    coco: COCO
    images: dict[Any, int]
    categories: dict[Any, int]
    names: dict[int, str]


def load_ground_truth(path: FilePath) -> COCO:
    """Read a COCO annotation file for an evaluation.

    Raises:
        CocoFileError: if it is not JSON, is unusable for an evaluation (see
            :func:`~swin_pos_det.data.annotation_file.check_annotations`), or has no objects other than crowds. Masks
            are not checked.
    """
    dataset = read_json(path)
    if isinstance(dataset, list):
        raise CocoFileError(f'{path} holds a list: ground truth is a COCO annotation file, a dict with images, '
                            'annotations and categories. The results come first, then the ground truth')
    check_annotations(dataset, path)
    check_objects(dataset, path)
    return as_coco(dataset)


def as_coco(dataset: dict[str, Any]) -> COCO:
    """Index a COCO dict, which the result keeps, without printing."""
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def check_objects(dataset: dict[str, Any], path: FilePath, classes: Optional[Sequence[str]] = None) -> None:
    """Check that AP is defined: that there is an object to find.

    Args:
        dataset: checked annotations.
        path: their file, or another name, for the message.
        classes: names of the categories that are evaluated. Default: all.

    Raises:
        CocoFileError: if all annotations are crowds, of other categories, or of unknown images.
    """
    images = {item['id'] for item in dataset['images']}
    categories = {item['id'] for item in dataset['categories'] if classes is None or item['name'] in classes}
    found = [item for item in dataset['annotations']
             if item['category_id'] in categories and item['image_id'] in images]
    if not any(not item.get('iscrowd') for item in found):
        raise CocoFileError(f'{path} has no object to evaluate: of {len(dataset["annotations"])} annotations '
                            f'{len(found)} belong to its images and the evaluated classes, all of them crowds '
                            '(iscrowd=1), which AP does not count')


def number_ids(gt: COCO) -> NumberedCoco:
    """Give images, categories and annotations ids 1, 2, ...

    Args:
        gt: not changed. Boxes and masks are shared with the result, not copied.
    """
    images, categories = _numbers(gt.imgs), _numbers(gt.cats)
    annotations = []
    for item in gt.dataset.get('annotations') or []:
        image, category = images.get(item['image_id']), categories.get(item['category_id'])
        if image is not None and category is not None:
            annotations.append(dict({key: item[key] for key in ('bbox', 'segmentation', 'area') if key in item},
                                    id=len(annotations) + 1, image_id=image, category_id=category,
                                    iscrowd=int(bool(item.get('iscrowd')))))
    dataset = dict(annotations=annotations, categories=[dict(id=number) for number in categories.values()],
                   images=[dict(id=number, height=gt.imgs[image]['height'], width=gt.imgs[image]['width'])
                           for image, number in images.items()])
    names = {number: gt.cats[category]['name'] for category, number in categories.items()}
    return NumberedCoco(as_coco(dataset), images, categories, names)


def _numbers(ids: Iterable[Any]) -> dict[Any, int]:
    """Map ids to their ranks in ascending order, numbers before text."""
    ordered = sorted(ids, key=lambda value: (isinstance(value, str), value))
    return {value: number for number, value in enumerate(ordered, 1)}
