"""Box and mask AP of COCO results, per class and size."""
from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ..choices import MAX_DETS
from ..errors import SettingError
from .annotations import NumberedCoco, as_coco, number_ids
from .evaluators import evaluator_class

Results = Sequence[dict[str, Any]]
SIZES = {'small': 's', 'medium': 'm', 'large': 'l'}


@dataclass(frozen=True)
class CocoScores:
    """The results of COCO's evaluation for boxes or masks. Values are in [0, 1], or NaN where there are no objects.

    Attributes:
        iou_type: ``'bbox'`` or ``'segm'``.
        max_dets: the three numbers of detections per image at which AR is taken, ascending.
        stats: COCO's twelve numbers by name: ``AP`` (at 100 detections), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``,
            ``AR@N`` for each N of ``max_dets``, ``ARs``, ``ARm``, ``ARl``; all but the first and ``AR@N`` at the last
            of ``max_dets``. mmdet's metrics are these, rounded to three decimals.
        per_class: for each category ``name``, ``objects`` (crowds not counted), ``detections``, and ``AP``, ``AP50``,
            ``AP75``, ``APs``, ``APm``, ``APl``, ``AR`` at the last of ``max_dets``. Empty if categories do not count.
        precision: (T, R): over IoU thresholds and recalls, the mean of the categories that have objects.
        iou_thresholds: (T,).
        recalls: (R,).
        summary: the lines that pycocotools prints.
    """
    iou_type: str
    max_dets: tuple[int, ...]
    stats: dict[str, float]
    per_class: list[dict[str, Any]]
    precision: np.ndarray
    iou_thresholds: np.ndarray
    recalls: np.ndarray
    summary: str

    def as_dict(self) -> dict[str, Any]:
        """Give ``stats`` and ``per_class`` for a JSON file, which has null for NaN."""
        def plain(row: dict[str, Any]) -> dict[str, Any]:
            return {key: None if value != value else value for key, value in row.items()}

        return dict(stats=plain(self.stats), per_class=[plain(row) for row in self.per_class])


def kinds_of(results: Results) -> list[str]:
    """Return the IoU types for which all detections can be evaluated: ``'bbox'``, ``'segm'`` or both."""
    keys = {'bbox': 'bbox', 'segm': 'segmentation'}
    return [kind for kind, key in keys.items() if all(key in item for item in results)]


def check_max_dets(max_dets: Sequence[int], name: str = 'max_dets', ap: bool = True) -> None:
    """Check the numbers of detections per image at which AR is taken.

    Args:
        max_dets: the numbers.
        name: of the setting, for the message.
        ap: whether AP is computed too, which COCO defines at 100 detections.

    Raises:
        SettingError: unless they are three ascending whole numbers, 100 among them. pycocotools would report AP as -1
            or raise an ``IndexError``.
    """
    numbers = list(max_dets)
    whole = all(isinstance(number, (int, np.integer)) and number > 0 for number in numbers)
    if not whole or len(numbers) != 3 or numbers != sorted(set(numbers)) or ap and 100 not in numbers:
        among = ' with 100 among them' if ap else ''
        raise SettingError(f'{name} must be three ascending numbers{among}, at which COCO defines AP and AR, such as '
                           f'1 10 100 or 100 300 1000; got {" ".join(map(str, numbers))}')


def evaluate(gt: Union[COCO, NumberedCoco], results: Results, iou_type: str = 'bbox',
             evaluator: Union[str, type] = 'pycocotools', max_dets: Sequence[int] = MAX_DETS,
             classes: Optional[Sequence[str]] = None, *, iou_thresholds: Optional[Sequence[float]] = None,
             use_categories: bool = True) -> CocoScores:
    """Evaluate COCO results, for ``tools/test.py`` and ``eval_coco.py`` alike.

    Args:
        gt: annotations; all of their images count, also those without detections.
        results: of :func:`~swin_pos_det.evaluation.result_files.load_results`; not changed.
        iou_type: ``'bbox'`` or ``'segm'``.
        evaluator: ``'pycocotools'`` or ``'faster'``, or a class with the interface of pycocotools' ``COCOeval``.
        max_dets: three ascending numbers of detections per image, 100 among them.
        classes: names of the categories to evaluate. Default: all.
        iou_thresholds: at which AP is taken, ascending. Default: COCO's 0.5, 0.55, ... 0.95.
        use_categories: False: as for proposals, a detection may be of any category.

    Raises:
        SettingError: if ``max_dets`` are invalid, a class is unknown, or results are of another type.
        MissingPackageError: if faster-coco-eval is asked for and not installed.
    """
    check_max_dets(max_dets, ap=use_categories)
    if iou_type not in kinds_of(results):
        raise SettingError(f'not all detections have a {"bbox" if iou_type == "bbox" else "segmentation"}: '
                           f'evaluation for {iou_type} needs it')
    cls = evaluator_class(evaluator) if isinstance(evaluator, str) else evaluator
    truth = gt if isinstance(gt, NumberedCoco) else number_ids(gt)
    categories = _numbers_of(truth, classes)
    found = _detections(truth, results, iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cls(truth.coco, found, iou_type)
        evaluation.params.catIds = categories
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(use_categories)
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.asarray(iou_thresholds, float)
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    return _scores(evaluation, truth, found, categories, iou_type, printed.getvalue().rstrip())


def category_ids(gt: COCO, classes: Optional[Sequence[str]] = None) -> list[Any]:
    """Return the ids of the categories with these names, or of all, in the order of the annotation file.

    Raises:
        SettingError: if a name is unknown.
    """
    _check_names([category['name'] for category in gt.dataset['categories']], classes)
    return gt.getCatIds(catNms=list(classes or []))


def only(results: Results, iou_type: str) -> list[dict[str, Any]]:
    """Copy the fields that one kind of evaluation reads. With boxes, COCO's mask AP by size would use their areas."""
    if iou_type == 'bbox':
        return [{key: item[key] for key in ('image_id', 'category_id', 'bbox', 'score')} for item in results]
    return [dict(image_id=item['image_id'], category_id=item['category_id'], segmentation=item['segmentation'],
                 score=item.get('mask_score', item['score'])) for item in results]


def _check_names(known: Sequence[str], classes: Optional[Sequence[str]]) -> None:
    unknown = [name for name in classes or [] if name not in known]
    if unknown:
        raise SettingError(f'the ground truth has no class {unknown[0]!r}; it has {", ".join(known)}')


def _numbers_of(truth: NumberedCoco, classes: Optional[Sequence[str]]) -> list[int]:
    """Return the numbers of the categories with these names, ascending."""
    _check_names(list(truth.names.values()), classes)
    return [number for number, name in truth.names.items() if not classes or name in classes]


def _detections(truth: NumberedCoco, results: Results, iou_type: str) -> COCO:
    """Index results as pycocotools' ``loadRes`` does, under the ids of the ground truth; there may be none."""
    annotations = only(results, iou_type)
    for number, item in enumerate(annotations, 1):
        area = item['bbox'][2] * item['bbox'][3] if iou_type == 'bbox' else rle.area(item['segmentation'])
        item.update(id=number, image_id=truth.images[item['image_id']], iscrowd=0, area=area,
                    category_id=truth.categories[item['category_id']])
    return as_coco(dict(images=truth.coco.dataset['images'], categories=truth.coco.dataset['categories'],
                        annotations=annotations))


def _scores(evaluation: Any, truth: NumberedCoco, found: COCO, categories: list[int], iou_type: str,
            summary: str) -> CocoScores:
    max_dets = tuple(evaluation.params.maxDets)
    names = ['AP', 'AP50', 'AP75', *(f'AP{size}' for size in SIZES.values()), *(f'AR@{number}' for number in max_dets),
             *(f'AR{size}' for size in SIZES.values())]
    thresholds = np.asarray(evaluation.params.iouThrs)
    precision = np.asarray(evaluation.eval['precision'])
    rows = []
    if evaluation.params.useCats:
        rows = _per_class(truth, found, categories, precision, np.asarray(evaluation.eval['recall']), thresholds)
    return CocoScores(
        iou_type=iou_type,
        max_dets=max_dets,
        stats={name: _or_nan(value) for name, value in zip(names, evaluation.stats)},
        per_class=rows,
        precision=np.ma.masked_equal(precision[:, :, :, 0, -1], -1).mean(axis=2).filled(np.nan),
        iou_thresholds=thresholds,
        recalls=np.asarray(evaluation.params.recThrs),
        summary=summary)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values present (-1 marks absent ones), NaN without any; computed as pycocotools does."""
    there = values[values > -1]
    return float(np.mean(there)) if there.size else float('nan')


def _or_nan(value: float) -> float:
    return float('nan') if value == -1 else float(value)


def _per_class(truth: NumberedCoco, found: COCO, categories: Sequence[int], precision: np.ndarray,
               recall: np.ndarray, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Return ``precision`` (T, R, K, A, M) and ``recall`` (T, K, A, M) as a row for each of K categories."""
    objects, detections = (dict.fromkeys(categories, 0) for _ in range(2))
    for counts, coco in ((objects, truth.coco), (detections, found)):
        for item in coco.dataset['annotations']:
            if item['category_id'] in counts and not item['iscrowd']:
                counts[item['category_id']] += 1
    rows = []
    for index, number in enumerate(categories):
        own = precision[:, :, index, :, -1]
        row = dict(name=truth.names[number], objects=objects[number], detections=detections[number],
                   AP=_mean(own[:, :, 0]), **{f'AP{round(100 * at)}': _mean(own[np.isclose(thresholds, at), :, 0])
                                              for at in (0.5, 0.75)})
        row.update({f'AP{short}': _mean(own[:, :, area]) for area, short in enumerate(SIZES.values(), 1)})
        row['AR'] = _mean(recall[:, index, 0, -1])
        rows.append(row)
    return rows
