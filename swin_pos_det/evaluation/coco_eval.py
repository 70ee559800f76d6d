"""Box and mask AP of COCO results, per class and size, and which classes are taken for which."""
from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ..choices import MAX_DETS
from ..errors import SettingError
from .evaluators import evaluator_class

Results = Sequence[dict[str, Any]]
SIZES = {'small': 's', 'medium': 'm', 'large': 'l'}


@dataclass(frozen=True)
class CocoScores:
    """What COCO's evaluation says of one kind of results. Values are in [0, 1], or NaN where there are no objects.

    Attributes:
        iou_type: ``'bbox'`` or ``'segm'``.
        max_dets: the three numbers of detections per image at which AR is taken, ascending.
        stats: COCO's twelve numbers by name: ``AP`` (at 100 detections), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``,
            ``AR@N`` for each N of ``max_dets``, ``ARs``, ``ARm``, ``ARl``; all but the first and ``AR@N`` at the last
            of ``max_dets``. mmdet's metrics are these, rounded to three decimals.
        per_class: for each category ``name``, ``objects`` (crowds not counted), ``detections``, and ``AP``, ``AP50``,
            ``AP75``, ``APs``, ``APm``, ``APl``, ``AR`` at the last of ``max_dets``.
        precision: (T, R): over IoU thresholds and recalls, the mean of the categories that have objects.
        iou_thresholds: (T,).
        recalls: (R,).
    """
    iou_type: str
    max_dets: tuple[int, ...]
    stats: dict[str, float]
    per_class: list[dict[str, Any]]
    precision: np.ndarray
    iou_thresholds: np.ndarray
    recalls: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """``stats`` and ``per_class`` for a JSON file, which has null for NaN."""
        def plain(row: dict[str, Any]) -> dict[str, Any]:
            return {key: None if value != value else value for key, value in row.items()}

        return dict(stats=plain(self.stats), per_class=[plain(row) for row in self.per_class])


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often an object of one class was found as another.

    Attributes:
        names: of the K classes.
        counts: (K + 1, K + 1) ints: rows are the true class, columns the one found. The last row counts detections
            where nothing is, the last column objects that were not found.
        score_threshold: detections below it were left out.
        iou_threshold: what overlaps less is not the same thing.
    """
    names: list[str]
    counts: np.ndarray
    score_threshold: float
    iou_threshold: float


def kinds_of(results: Results) -> list[str]:
    """The IoU types that all detections can be evaluated for: ``'bbox'``, ``'segm'`` or both."""
    keys = {'bbox': 'bbox', 'segm': 'segmentation'}
    return [kind for kind, key in keys.items() if all(key in item for item in results)]


def evaluate(gt: COCO, results: Results, iou_type: str = 'bbox', evaluator: str = 'pycocotools',
             max_dets: Sequence[int] = MAX_DETS, classes: Optional[Sequence[str]] = None) -> CocoScores:
    """Evaluates COCO results as ``tools/test.py`` does.

    Args:
        gt: annotations; all of their images count, also those without detections.
        results: as :func:`~swin_pos_det.evaluation.coco_files.load_results` gives them; not changed.
        iou_type: ``'bbox'`` or ``'segm'``.
        evaluator: ``'pycocotools'`` or ``'faster'``.
        max_dets: three ascending numbers of detections per image, 100 among them.
        classes: names of the categories to evaluate. Default: all.

    Raises:
        ValueError: if ``max_dets`` are not such numbers, a class is unknown, or results are of another kind.
        ImportError: if faster-coco-eval is asked for and not installed.
    """
    max_dets = tuple(max_dets)
    if len(max_dets) != 3 or list(max_dets) != sorted(set(max_dets)) or max_dets[0] < 1 or 100 not in max_dets:
        raise SettingError('max_dets must be three ascending numbers with 100 among them, at which COCO defines AP, '
                           f'such as 1 10 100 or 100 300 1000; got {" ".join(map(str, max_dets))}')
    if iou_type not in kinds_of(results):
        raise SettingError(f'not all detections have a {"bbox" if iou_type == "bbox" else "segmentation"}: '
                           f'they cannot be evaluated for {iou_type}')
    cat_ids = category_ids(gt, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluator_class(evaluator)(gt, gt.loadRes(_only(results, iou_type)), iou_type)
        evaluation.params.catIds = cat_ids
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ['AP', 'AP50', 'AP75', *(f'AP{size}' for size in SIZES.values()), *(f'AR@{number}' for number in max_dets),
             *(f'AR{size}' for size in SIZES.values())]
    precision = np.asarray(evaluation.eval['precision'])
    return CocoScores(
        iou_type=iou_type,
        max_dets=max_dets,
        stats={name: _or_nan(value) for name, value in zip(names, evaluation.stats)},
        per_class=_per_class(gt, results, sorted(cat_ids), precision, np.asarray(evaluation.eval['recall'])),
        precision=np.ma.masked_equal(precision[:, :, :, 0, -1], -1).mean(axis=2).filled(np.nan),
        iou_thresholds=np.asarray(evaluation.params.iouThrs),
        recalls=np.asarray(evaluation.params.recThrs))


def category_ids(gt: COCO, classes: Optional[Sequence[str]] = None) -> list[int]:
    """The ids of the categories with these names, or of all, in the order of the annotation file.

    Raises:
        ValueError: if a name is unknown.
    """
    known = [category['name'] for category in gt.dataset['categories']]
    unknown = [name for name in classes or [] if name not in known]
    if unknown:
        raise SettingError(f'the ground truth has no class {unknown[0]!r}; it has {", ".join(known)}')
    return gt.getCatIds(catNms=list(classes or []))


def confusion_matrix(gt: COCO, results: Results, iou_type: str = 'bbox', score_threshold: float = 0.3,
                     iou_threshold: float = 0.5, classes: Optional[Sequence[str]] = None) -> ConfusionMatrix:
    """Counts which classes are taken for which.

    An object and a detection are paired if they overlap enough, each once, detections of the highest score first:
    objects with detections of their own class, then what is left of both with each other. What is left then are
    objects that were missed and detections of nothing; of those, the ones that lie in a crowd of their class are left
    out, as in COCO's AP.

    Args:
        gt: annotations.
        results: as for :func:`evaluate`.
        iou_type: ``'bbox'`` or ``'segm'``.
        score_threshold: detections below it are left out, in [0, 1].
        iou_threshold: what overlaps less is not paired, above 0 and at most 1.
        classes: names of the categories that count. Default: all.

    Raises:
        ValueError: if a threshold or class is none.
    """
    if not 0 <= score_threshold <= 1 or not 0 < iou_threshold <= 1:
        raise SettingError(f'score_threshold must be in [0, 1] and iou_threshold above 0 and at most 1, got '
                           f'{score_threshold:g} and {iou_threshold:g}')
    cat_ids = category_ids(gt, classes)
    place = {cat_id: index for index, cat_id in enumerate(cat_ids)}
    counts = np.zeros((len(place) + 1, len(place) + 1), np.int64)
    found: dict[Any, list[dict]] = {}
    for item in _only(results, iou_type):
        if item['category_id'] in place and item['score'] >= score_threshold:
            found.setdefault(item['image_id'], []).append(item)
    for image_id in gt.getImgIds():
        objects = [item for item in gt.loadAnns(gt.getAnnIds(imgIds=[image_id])) if item['category_id'] in place]
        detections = sorted(found.get(image_id, []), key=lambda item: -item['score'])
        for true, predicted in _pairs(gt, objects, detections, iou_type, iou_threshold):
            counts[place.get(true, -1), place.get(predicted, -1)] += 1
    return ConfusionMatrix([gt.cats[cat_id]['name'] for cat_id in cat_ids], counts, score_threshold, iou_threshold)


def _only(results: Results, iou_type: str) -> list[dict[str, Any]]:
    """Copies with what one kind of evaluation reads. With a box, COCO's mask AP by size would go by the box's area."""
    if iou_type == 'bbox':
        return [{key: item[key] for key in ('image_id', 'category_id', 'bbox', 'score')} for item in results]
    return [dict(image_id=item['image_id'], category_id=item['category_id'], segmentation=item['segmentation'],
                 score=item.get('mask_score', item['score'])) for item in results]


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are there (-1: there is none), NaN if none is; computed as pycocotools does."""
    there = values[values > -1]
    return float(np.mean(there)) if there.size else float('nan')


def _or_nan(value: float) -> float:
    return float('nan') if value == -1 else float(value)


def _per_class(gt: COCO, results: Results, cat_ids: Sequence[int], precision: np.ndarray,
               recall: np.ndarray) -> list[dict[str, Any]]:
    """``precision`` (T, R, K, A, M) and ``recall`` (T, K, A, M) as a row for each of K categories."""
    objects = dict.fromkeys(cat_ids, 0)
    detections = dict.fromkeys(cat_ids, 0)
    for counts, items in ((objects, gt.dataset['annotations']), (detections, results)):
        for item in items:
            if item['category_id'] in counts and not item.get('iscrowd'):
                counts[item['category_id']] += 1
    rows = []
    for index, cat_id in enumerate(cat_ids):
        own = precision[:, :, index, :, -1]
        row = dict(name=gt.cats[cat_id]['name'], objects=objects[cat_id], detections=detections[cat_id],
                   AP=_mean(own[:, :, 0]), AP50=_mean(own[0, :, 0]), AP75=_mean(own[5, :, 0]))
        row.update({f'AP{short}': _mean(own[:, :, area]) for area, short in enumerate(SIZES.values(), 1)})
        row['AR'] = _mean(recall[:, index, 0, -1])
        rows.append(row)
    return rows


def _pairs(gt: COCO, objects: list[dict], detections: list[dict], iou_type: str,
           threshold: float) -> list[tuple[Optional[int], Optional[int]]]:
    """(category of an object, category of its detection) for one image; None where there is no object or detection."""
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
