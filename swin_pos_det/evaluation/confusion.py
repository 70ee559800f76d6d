"""The confusion matrix of a detector's classes."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ..errors import SettingError
from .coco_eval import Results, category_ids, only


@dataclass(frozen=True)
class ConfusionMatrix:
    """The numbers of objects of each class detected as each other.

    Attributes:
        names: of the K classes.
        counts: (K + 1, K + 1) ints: rows are true classes, columns detected ones. The last row counts detections
            of background, the last column missed objects.
        score_threshold: detections below it were left out.
        iou_threshold: pairs that overlap less do not match.
    """
    names: list[str]
    counts: np.ndarray
    score_threshold: float
    iou_threshold: float


@dataclass(frozen=True)
class ImageCounts:
    """Counts of correct, missed and false detections in an image.

    Attributes:
        image_id: of the annotations.
        correct: objects found with their class.
        missed: objects not found, or with another class.
        false: detections without an object, or of another class.
    """
    image_id: Any
    correct: int
    missed: int
    false: int

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall; 1 for an image without objects and detections."""
        wrong = self.missed + self.false
        return 2 * self.correct / (2 * self.correct + wrong) if self.correct + wrong else 1.


def count_by_image(gt: COCO, results: Results, iou_type: str = 'bbox', score_threshold: float = 0.3,
                   iou_threshold: float = 0.5, classes: Optional[Sequence[str]] = None) -> list[ImageCounts]:
    """Count found objects and errors of each image; takes the arguments of :func:`confusion_matrix`."""
    counts = []
    for image_id, pairs in _pairs_by_image(gt, results, iou_type, score_threshold, iou_threshold,
                                           category_ids(gt, classes)):
        correct = sum(true == predicted for true, predicted in pairs)
        counts.append(ImageCounts(image_id, correct, sum(true is not None for true, _ in pairs) - correct,
                                  sum(predicted is not None for _, predicted in pairs) - correct))
    return counts


def confusion_matrix(gt: COCO, results: Results, iou_type: str = 'bbox', score_threshold: float = 0.3,
                     iou_threshold: float = 0.5, classes: Optional[Sequence[str]] = None) -> ConfusionMatrix:
    """Count how often each class is detected as each other.

    An object and a detection are paired if they overlap enough, each once, detections of the highest score first:
    first within each class, then the rest across classes. Unpaired objects are missed, and unpaired detections are
    background; detections in a crowd of their class are left out, as in COCO's AP.

    Args:
        gt: annotations.
        results: as for :func:`evaluate`.
        iou_type: ``'bbox'`` or ``'segm'``.
        score_threshold: detections below it are left out, in [0, 1].
        iou_threshold: less overlap makes no pair; above 0 and at most 1.
        classes: names of the categories that count. Default: all.

    Raises:
        ValueError: for an invalid threshold or class.
    """
    cat_ids = category_ids(gt, classes)
    place = {cat_id: index for index, cat_id in enumerate(cat_ids)}
    counts = np.zeros((len(place) + 1, len(place) + 1), np.int64)
    for _, pairs in _pairs_by_image(gt, results, iou_type, score_threshold, iou_threshold, cat_ids):
        for true, predicted in pairs:
            counts[place.get(true, -1), place.get(predicted, -1)] += 1
    return ConfusionMatrix([gt.cats[cat_id]['name'] for cat_id in cat_ids], counts, score_threshold, iou_threshold)


def _pairs_by_image(gt: COCO, results: Results, iou_type: str, score_threshold: float, iou_threshold: float,
                    cat_ids: Sequence[Any]) -> Iterator[tuple[Any, list[tuple[Optional[int], Optional[int]]]]]:
    """Yield each image's id and what :func:`_pairs` returns for it."""
    if not 0 <= score_threshold <= 1 or not 0 < iou_threshold <= 1:
        raise SettingError(f'score_threshold must be in [0, 1] and iou_threshold above 0 and at most 1, got '
                           f'{score_threshold:g} and {iou_threshold:g}')
    kept, found = set(cat_ids), {}
    for item in only(results, iou_type):
        if item['category_id'] in kept and item['score'] >= score_threshold:
            found.setdefault(item['image_id'], []).append(item)
    for image_id in gt.getImgIds():
        objects = [item for item in gt.loadAnns(gt.getAnnIds(imgIds=[image_id])) if item['category_id'] in kept]
        detections = sorted(found.get(image_id, []), key=lambda item: -item['score'])
        yield image_id, _pairs(gt, objects, detections, iou_type, iou_threshold)


def _pairs(gt: COCO, objects: list[dict], detections: list[dict], iou_type: str,
           threshold: float) -> list[tuple[Optional[int], Optional[int]]]:
    """Return (object's category, detection's category) pairs of one image; None where one of them is missing."""
    if not objects or not detections:
        return [(item['category_id'], None) for item in objects if not item.get('iscrowd')] + [
            (None, item['category_id']) for item in detections]
    crowds = [int(item.get('iscrowd', 0)) for item in objects]
    if iou_type == 'bbox':
        shapes = [[item['bbox'] for item in items] for items in (detections, objects)]
    else:
        shapes = [[item['segmentation'] for item in detections], [gt.annToRLE(item) for item in objects]]
    ious = np.asarray(rle.iou(*shapes, crowds))
    same = np.equal.outer([item['category_id'] for item in detections], [item['category_id'] for item in objects])
    real = ~np.array(crowds, bool)
    partner: dict[int, int] = {}
    for allowed in (same & real, ~same & real):
        for index in range(len(detections)):
            candidates = np.where(allowed[index] & (ious[index] >= threshold))[0]
            candidates = [place for place in candidates if place not in partner.values()]
            if index not in partner and candidates:
                partner[index] = max(candidates, key=lambda place: ious[index, place])
    in_crowd = (same & ~real & (ious >= threshold)).any(1)
    taken = set(partner.values())
    pairs = [(objects[place]['category_id'], detections[index]['category_id']) for index, place in partner.items()]
    pairs += [(item['category_id'], None) for place, item in enumerate(objects) if place not in taken and real[place]]
    return pairs + [(None, item['category_id']) for index, item in enumerate(detections)
                    if index not in partner and not in_crowd[index]]
