"""The difference of two evaluators' numbers and their times, on real annotations and made-up detections."""
from __future__ import annotations

import contextlib
import copy
import io
import time
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from ...evaluation import evaluator_class
from ...evaluation.annotations import as_coco

# Corners of the polygon used as a detection's mask if its object has none.
_CORNERS = 12


@dataclass(frozen=True)
class Comparison:
    """Two evaluators on the same detections.

    Attributes:
        iou_type: 'bbox' or 'segm'.
        seconds: processor time of each evaluator, all threads, the shortest of its runs.
        stats: the twelve numbers of each evaluator, (12,).
        difference: the largest one between their precisions, recalls, scores and statistics. Infinite if one has a
            number and the other has none.
    """
    iou_type: str
    seconds: dict[str, float]
    stats: dict[str, np.ndarray]
    difference: float


def jittered_detections(gt: COCO, per_image: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """Make up detections with all the cases in which evaluators can differ.

    Each image gets a random number of them: most are objects of the image (crowds too) moved and resized a little or a
    lot, some several times, one in eight under another category, the rest lie anywhere. Scores have two decimals, so
    there are many ties. One image in ten gets none.

    Args:
        gt: annotations with ``segmentation``.
        per_image: maximum of detections for an image, at least 1.
        seed: the same seed gives the same detections.

    Returns:
        COCO results with ``image_id``, ``category_id``, ``bbox`` (x, y, w, h), ``score`` and ``segmentation`` (RLE).
    """
    generator = np.random.default_rng(seed)
    categories = gt.getCatIds()
    results = []
    for image in gt.loadImgs(sorted(gt.getImgIds())):
        if generator.random() < 0.1:
            continue
        objects = gt.loadAnns(gt.getAnnIds(imgIds=[image['id']]))
        for _ in range(int(generator.integers(1, per_image + 1))):
            source = objects[generator.integers(len(objects))] if objects and generator.random() < 0.8 else None
            box, polygon = _jitter(source, image, generator)
            same = source is not None and generator.random() < 0.875
            category = source['category_id'] if same else categories[generator.integers(len(categories))]
            mask = rle.merge(rle.frPyObjects([polygon.ravel().tolist()], image['height'], image['width']))
            results.append(dict(
                image_id=image['id'], category_id=category, bbox=box.tolist(), score=round(generator.random(), 2),
                segmentation=dict(size=mask['size'], counts=mask['counts'].decode())))
    return results


def _jitter(source: dict[str, Any] | None, image: dict[str, Any],
            generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a box (x, y, w, h) and polygon (n, 2): an annotation's, moved and resized, or anywhere in the image."""
    size = np.array([image['width'], image['height']], float)
    if source is None:
        box = np.concatenate([generator.random(2) * size * 0.8, 4 + generator.random(2) * size * 0.4])
    else:
        box = np.array(source['bbox'], float)
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    polygon = box[:2] + box[2:] / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], 1))
    if source is not None and isinstance(source.get('segmentation'), list):
        polygon = np.array(max(source['segmentation'], key=len)).reshape(-1, 2)
    amount = generator.choice([0, 0.03, 0.1, 0.3])
    shift = generator.normal(size=2) * amount * box[2:]
    scale = np.exp(generator.normal(size=2) * amount)
    moved = np.concatenate([box[:2] + shift, box[2:] * scale])
    return moved, np.clip(box[:2] + shift + (polygon - box[:2]) * scale, 0, size)


def replicate(dataset: dict[str, Any], copies: int) -> dict[str, Any]:
    """Return a larger data set: a COCO dict with images and annotations repeated ``copies`` times under new ids."""
    larger = dict(dataset, images=[], annotations=[])
    image_step, object_step = (max((item['id'] for item in dataset[key]), default=0) + 1
                               for key in ('images', 'annotations'))
    for index in range(copies):
        larger['images'] += [dict(image, id=image['id'] + index * image_step) for image in dataset['images']]
        larger['annotations'] += [dict(item, id=item['id'] + index * object_step,
                                       image_id=item['image_id'] + index * image_step)
                                  for item in dataset['annotations']]
    return larger


def compare_evaluators(dataset: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: str,
                       max_dets: Sequence[int] = (100, 300, 1000), use_categories: bool = True, runs: int = 1,
                       evaluators: Sequence[str] = ('pycocotools', 'faster')) -> Comparison:
    """Evaluate the same detections with each evaluator, in turns.

    Args:
        dataset: COCO annotations.
        results: COCO results, at least one.
        iou_type: 'bbox' or 'segm'.
        max_dets: numbers of detections per image at which AR is taken, ascending.
        use_categories: False: as for proposals, categories do not matter.
        runs: number of timed runs of each, at least 1.
        evaluators: of :data:`~swin_pos_det.evaluation.EVALUATORS`; the others are compared with the first.

    Raises:
        ImportError: if faster-coco-eval is not installed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    arrays = {}
    for _ in range(runs):
        for name in evaluators:
            start, arrays[name] = _evaluate(name, dataset, results, iou_type, max_dets, use_categories)
            seconds[name].append(time.process_time() - start)
    first = arrays[evaluators[0]]
    difference = max(_distance(first[key], arrays[name][key]) for name in evaluators[1:] for key in first)
    return Comparison(iou_type, {name: min(values) for name, values in seconds.items()},
                      {name: arrays[name]['stats'] for name in evaluators}, difference)


def _evaluate(name: str, dataset: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: str,
              max_dets: Sequence[int], use_categories: bool) -> tuple[float, dict[str, np.ndarray]]:
    """Return the processor time at which the evaluation began (loading is not part of it), and its arrays."""
    with contextlib.redirect_stdout(io.StringIO()):
        gt = as_coco(copy.deepcopy(dataset))  # both evaluators modify the annotations
        other = 'segmentation' if iou_type == 'bbox' else 'bbox'
        dt = gt.loadRes([{key: value for key, value in result.items() if key != other} for result in results])
        evaluation = evaluator_class(name)(gt, dt, iou_type)
        evaluation.params.maxDets = list(max_dets)
        evaluation.params.useCats = int(use_categories)
        start = time.process_time()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return start, dict(precision=np.asarray(evaluation.eval['precision']), recall=np.asarray(evaluation.eval['recall']),
                       scores=np.asarray(evaluation.eval['scores']), stats=np.asarray(evaluation.stats))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest absolute difference; infinite if shapes, or the places without a value (-1), differ."""
    if first.shape != second.shape or ((first == -1) != (second == -1)).any():
        return float('inf')
    return float(np.abs(first - second).max(initial=0.))
