"""The report of a training as one HTML page that needs no other file."""
from __future__ import annotations

import base64
import io
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
import numpy as np
from jinja2 import Environment
from PIL import Image
from pycocotools import mask as rle

from ...checkpoints import atomic_write
from ...evaluation.coco_eval import SIZES, CocoScores
from ...evaluation.confusion import ConfusionMatrix, ImageCounts
from ...evaluation.plots import plot_confusion_matrix, plot_precision_recall
from ...visualization import InstanceDrawer, picture_scale
from .evaluation import Evaluation
from .html_template import TEMPLATE
from .run_log import Training
from .run_report import AP_TITLES, plot_curves

# Longer side of each half of a picture, pixels, and JPEG's quality: 40 to 120 KB a picture.
_MIN_SIDE = 400
_MAX_SIDE = 640
_QUALITY = 82
# A matrix of more classes would be megabytes of lines and names that nobody can read.
_MAX_MATRIX_CLASSES = 100
_MAX_CONFUSIONS = 10
_KINDS = {'bbox': 'box', 'segm': 'mask'}


def write_html(path: Union[str, Path], training: Training, metrics: dict[str, Any], facts: dict[str, str],
               evaluation: Union[Evaluation, str], num_images: int, score_threshold: float) -> None:
    """Write the page.

    Args:
        path: of the page; overwritten.
        training: for the curves.
        metrics: of :func:`~swin_pos_det.analysis.runs.summarize`.
        facts: further lines of the table on the training: name -> text.
        evaluation: of the checkpoint, or why there is none.
        num_images: pictures, half of them of the best and half of the worst images; 0 for none.
        score_threshold: detections below it are not drawn.
    """
    page = dict(title=metrics['config'] or Path(metrics['work_dir']).name, metrics=metrics, facts=facts,
                made=datetime.now().strftime('%Y-%m-%d %H:%M'), score_threshold=score_threshold, tiles=[], scores=[],
                curves=_svg(lambda file: plot_curves(training, file)))
    if isinstance(evaluation, str):
        page.update(no_evaluation=evaluation, tiles=[(AP_TITLES[key], f'{100 * value:.1f}') for key, value in
                                                     metrics['final'].items() if key in AP_TITLES])
    else:
        page.update(_sections(evaluation, num_images, score_threshold))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE).render(page)
    with atomic_write(path) as draft:
        Path(draft).write_text(text, encoding='utf-8')


def _sections(evaluation: Evaluation, num_images: int, score_threshold: float) -> dict[str, Any]:
    """Return what the template shows of an evaluation."""
    scores, matrix = evaluation.scores, evaluation.matrix
    tiles = [(f'{_KINDS[score.iou_type]} {name}', _percent(score.stats[name]))
             for score in scores for name in ('AP', 'AP50')]
    best, worst = _best_and_worst(evaluation.images, num_images)
    draw = _Pictures(evaluation, score_threshold)
    return dict(
        tiles=[*tiles, ('images', str(len(evaluation.paths))),
               ('objects', str(sum(row['objects'] for row in scores[0].per_class)))],
        scores=[_tables(score) for score in scores],
        precision_recall=_svg(lambda file: plot_precision_recall(scores, file)),
        matrix=_svg(lambda file: plot_confusion_matrix(matrix, file)) if (
            len(matrix.names) <= _MAX_MATRIX_CLASSES) else None,
        iou_threshold=matrix.iou_threshold, confusions=_confusions(matrix),
        totals=_totals(evaluation.images), best=[draw(counts) for counts in best],
        worst=[draw(counts) for counts in worst])


def _tables(score: CocoScores) -> dict[str, Any]:
    """Return the AP of a kind of results by size and by class, the best class first."""
    rows = sorted(score.per_class, key=lambda row: -1 if math.isnan(row['AP']) else row['AP'], reverse=True)
    last = score.max_dets[-1]
    keys = ('AP50', 'AP75', *(f'AP{short}' for short in SIZES.values()), 'AR')
    return dict(
        kind=_KINDS[score.iou_type], columns=keys,
        sizes=[(name, _share(score.stats[f'AP{short}']), _percent(score.stats[f'AP{short}']),
                _percent(score.stats[f'AR{short}'])) for name, short in [*SIZES.items()]],
        all=[(name, _percent(score.stats[name])) for name in ('AP', 'AP50', 'AP75', f'AR@{last}')],
        classes=[dict(name=row['name'], objects=row['objects'], detections=row['detections'], share=_share(row['AP']),
                      AP=_percent(row['AP']), values=[_percent(row[key]) for key in keys]) for row in rows])


def _confusions(matrix: ConfusionMatrix) -> list[tuple[str, str, int, str]]:
    """Return the most frequent pairs of different classes: true, found, number, share of the true class's objects."""
    counts = matrix.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind='stable')[:_MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, counts.shape))
    return [(matrix.names[true], matrix.names[found], int(counts[true, found]),
             _percent(counts[true, found] / matrix.counts[true].sum())) for true, found in pairs if counts[true, found]]


def _totals(images: Sequence[ImageCounts]) -> dict[str, Any]:
    correct, missed, false = (sum(getattr(each, name) for each in images) for name in ('correct', 'missed', 'false'))
    return dict(correct=correct, missed=missed, false=false, precision=_percent(correct / max(correct + false, 1)),
                recall=_percent(correct / max(correct + missed, 1)))


def _best_and_worst(images: Sequence[ImageCounts], number: int) -> tuple[list[ImageCounts], list[ImageCounts]]:
    """Choose images by F1; among equals those with more objects are better, those with more errors worse."""
    busy = [each for each in images if each.correct + each.missed + each.false]
    worst = sorted(busy, key=lambda each: (each.f1, -each.missed - each.false))[:min(number, len(busy)) // 2]
    rest = [each for each in busy if each not in worst]
    return sorted(rest, key=lambda each: (-each.f1, -each.correct))[:(number + 1) // 2], worst


class _Pictures:
    """Draw images: ground truth left, detections right."""

    def __init__(self, evaluation: Evaluation, score_threshold: float) -> None:
        self._evaluation = evaluation
        self._drawer = InstanceDrawer(evaluation.classes, evaluation.palette)
        gt = evaluation.gt
        self._label = {number: evaluation.classes.index(category['name']) for number, category in gt.cats.items()
                       if category['name'] in evaluation.classes}
        self._found: dict[Any, list[dict[str, Any]]] = {}
        for item in evaluation.results:
            if item['score'] >= score_threshold:
                self._found.setdefault(item['image_id'], []).append(item)

    def __call__(self, counts: ImageCounts) -> dict[str, Any]:
        """Return the picture of an image, and what it says of it."""
        gt, number = self._evaluation.gt, counts.image_id
        path = self._evaluation.paths[number]
        image = mmcv.imread(path if isinstance(path, str) else path[0], channel_order='rgb')
        objects = [item for item in gt.loadAnns(gt.getAnnIds(imgIds=[number])) if not item.get('iscrowd')]
        scale = picture_scale(image.shape, _MIN_SIDE, _MAX_SIDE)
        halves = [self._draw(image, items, mask, scale) for items, mask in (
            (objects, gt.annToMask), (self._found.get(number, []), lambda item: rle.decode(item['segmentation'])))]
        gap = np.full((halves[0].shape[0], 6, 3), 255, np.uint8)
        name = path if isinstance(path, str) else str(Path(path[0]).parent)
        return dict(name=Path(name).name, picture=_jpeg(np.hstack([halves[0], gap, halves[1]])), correct=counts.correct,
                    objects=counts.correct + counts.missed, missed=counts.missed, false=counts.false,
                    f1=_percent(counts.f1))

    def _draw(self, image: np.ndarray, items: Iterable[dict[str, Any]], mask: Callable[[dict[str, Any]], np.ndarray],
              scale: float) -> np.ndarray:
        items = [item for item in items if item['category_id'] in self._label]
        with_masks = self._evaluation.scores[-1].iou_type == 'segm'
        boxes = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return self._drawer.draw(
            image, [self._label[item['category_id']] for item in items], boxes,
            [item['score'] for item in items] if items and 'score' in items[0] else None,
            [mask(item) for item in items] if with_masks else None, scale=scale)


def _svg(plot: Callable[[Path], None]) -> str:
    """Return a plot as the address of an image inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'plot.svg')
        plot(file)
        return _address('image/svg+xml', file.read_bytes())


def _jpeg(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=_QUALITY, optimize=True)
    return _address('image/jpeg', file.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _percent(value: float) -> str:
    """Format a share as COCO's tables do; a dash where there are no objects."""
    return '–' if math.isnan(value) else f'{100 * value:.1f}'


def _share(value: float) -> Optional[float]:
    return 0. if math.isnan(value) else round(100 * value, 1)
