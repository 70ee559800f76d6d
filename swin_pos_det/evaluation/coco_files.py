"""COCO annotations and results on disk: read with checks whose messages help, written in one piece."""
from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence

from mmdet.evaluation import CocoMetric
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator
from pycocotools.coco import COCO

from ..checkpoints import write_json
from ..data.annotation_file import CocoFileError, FilePath, check_annotations, read_json


def load_ground_truth(path: FilePath) -> COCO:
    """Reads a COCO annotation file.

    Raises:
        CocoFileError: if it is not JSON, or cannot be evaluated against, see
            :func:`~swin_pos_det.data.annotation_file.check_annotations`. Masks are not looked at.
    """
    dataset = read_json(path)
    if isinstance(dataset, list):
        raise CocoFileError(f'{path} holds a list: ground truth is a COCO annotation file, a dict with images, '
                            'annotations and categories. The results come first, then the ground truth')
    check_annotations(dataset, path)
    return as_coco(dataset)


def as_coco(dataset: dict[str, Any]) -> COCO:
    """A COCO dict as pycocotools' object, which keeps and changes it; nothing is printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def load_results(path: FilePath, gt: COCO) -> list[dict[str, Any]]:
    """Reads detections and checks them against the annotations they are for.

    Args:
        path: COCO results, a list of dicts with ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, w, h) or
            ``segmentation`` (RLE) or both; ``mask_score``, if there, is the score of the mask. Or a data set with
            such annotations, as ``tools/infer.py`` writes it: its images are found in ``gt`` by ``file_name``,
            its categories by ``name``.
        gt: the annotations.

    Returns:
        The detections with the ids of ``gt``, at least one.

    Raises:
        CocoFileError: if the file is something else, holds none, or one of them cannot be evaluated: an image or
            category that ``gt`` lacks, a box or score that is no finite number, a mask of another size.
    """
    found = read_json(path)
    if isinstance(found, dict) and {'images', 'annotations', 'categories'} <= set(found):
        found = _with_ids_of(found, gt, path)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise CocoFileError(f'{path} holds no COCO results: they are a list of dicts with image_id, category_id, score '
                            'and bbox or segmentation')
    if not found:
        raise CocoFileError(f'{path} is empty: it holds no detections')
    for index, item in enumerate(found):
        lacking = [key for key in ('image_id', 'category_id', 'score') if key not in item]
        if lacking or not ('bbox' in item or 'segmentation' in item):
            raise CocoFileError(f'{path}: detection {index} has no {lacking[0] if lacking else "bbox or segmentation"}')
    _check_ids(path, 'image', [item['image_id'] for item in found], set(gt.imgs))
    _check_ids(path, 'category', [item['category_id'] for item in found], set(gt.cats))
    for index, item in enumerate(found):
        _check_numbers(path, index, item)
        _check_mask(path, index, item, gt.imgs[item['image_id']])
    return found


@contextlib.contextmanager
def writing_coco_results(evaluator: Evaluator, out: FilePath) -> Iterator[None]:
    """Has an evaluation within it write its detections, those that it computes AP from, as COCO results.

    Args:
        evaluator: the runner's; one of its metrics must be a ``CocoMetric``.
        out: the file; see :func:`merge_results`. It is written at the end, by the main process.

    Raises:
        CocoFileError: if there is no such metric, or the folder of ``out`` cannot be written to.
    """
    metric = next((metric for metric in evaluator.metrics if isinstance(metric, CocoMetric)), None)
    if metric is None:
        raise CocoFileError(f'{out} cannot be written: the config evaluates with '
                            f'{", ".join(type(metric).__name__ for metric in evaluator.metrics)}, and only CocoMetric '
                            'knows the ids of COCO; a .pkl can be written always')
    folder = Path(out).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=f'.{Path(out).name}.')
    except OSError as error:
        raise CocoFileError(f'{out} cannot be written ({error.strerror})') from error
    with temporary as name:
        prefix, given = f'{name}/results', metric.outfile_prefix
        metric.outfile_prefix = given or prefix
        try:
            yield
        finally:
            metric.outfile_prefix = given
        if is_main_process():
            merge_results(given or prefix, out)


def merge_results(prefix: FilePath, out: FilePath) -> int:
    """Joins the files that ``CocoMetric`` writes to one file of COCO results.

    Args:
        prefix: the metric's ``outfile_prefix``: ``<prefix>.bbox.json`` must be there, ``<prefix>.segm.json`` may.
        out: the file to write. Each detection has ``bbox``, ``score`` and, with masks, ``segmentation``; where box and
            mask have scores of their own, ``mask_score`` too.

    Returns:
        How many detections were written.
    """
    results = json.loads(Path(f'{prefix}.bbox.json').read_text())
    masks = Path(f'{prefix}.segm.json')
    if masks.is_file():
        for box, mask in zip(results, json.loads(masks.read_text())):
            box['segmentation'] = mask['segmentation']
            if mask['score'] != box['score']:
                box['mask_score'] = mask['score']
    write_json(results, out, allow_nan=False)
    return len(results)


def _with_ids_of(dataset: dict[str, Any], gt: COCO, path: FilePath) -> list[dict[str, Any]]:
    """The annotations of a data set of predictions, under the ids that ``gt`` has for their images and categories."""
    # Both may name images from folders of their own; only then do the last parts of their names have to do.
    images = _translation(path, 'image', dataset['images'], gt.dataset['images'],
                          [lambda item: item['file_name'], lambda item: Path(item['file_name']).name])
    categories = _translation(path, 'category', dataset['categories'], gt.dataset['categories'],
                              [lambda item: item['name']])
    return [dict(item, image_id=images[item['image_id']], category_id=categories[item['category_id']])
            for item in dataset['annotations']]


def _translation(path: FilePath, what: str, theirs: list[dict], ours: list[dict],
                 ways: Sequence[Callable[[dict], str]]) -> dict[Any, Any]:
    """Their ids -> our ids, by name: in the first of the ways to name them in which ours has all of theirs."""
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
        raise CocoFileError(f'{path}: {what}s named {twice[0]!r} cannot be told apart: name them as the ground truth '
                            'does')
    return {item['id']: known[name] for item, name in zip(theirs, names)}


def _check_ids(path: FilePath, what: str, used: list[Any], known: set) -> None:
    wrong = [value for value in used if not isinstance(value, (int, str)) or value not in known]
    if wrong:
        ids = sorted(known)
        raise CocoFileError(f'{path}: {len(wrong)} of {len(used)} detections have a {what}_id that the ground truth '
                            f'has not, such as {wrong[0]!r}; its {len(ids)} ids go from {ids[0]} to {ids[-1]}')


def _check_numbers(path: FilePath, index: int, item: dict[str, Any]) -> None:
    box = item.get('bbox', [0] * 4)
    if not isinstance(box, list) or len(box) != 4 or not _all_finite(box):
        raise CocoFileError(f'{path}: detection {index} has bbox {box}; it must be four finite numbers, x, y, w, h')
    if not _all_finite([item['score'], item.get('mask_score', 0)]):
        raise CocoFileError(f'{path}: detection {index} has score {item["score"]!r}; it must be a finite number')


def _all_finite(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def _check_mask(path: FilePath, index: int, item: dict[str, Any], image: dict[str, Any]) -> None:
    if 'segmentation' not in item:
        return
    mask, size = item['segmentation'], [image['height'], image['width']]
    if not isinstance(mask, dict) or not isinstance(mask.get('counts'), str) or mask.get('size') != size:
        got = mask.get('size') if isinstance(mask, dict) else type(mask).__name__
        raise CocoFileError(f'{path}: detection {index} has no mask for its image: segmentation must be compressed RLE '
                            f'(a dict) with counts and size {size} (height, width), got {got}')
