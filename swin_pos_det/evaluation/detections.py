"""Detections of a model as COCO results, and the file that ``tools/test.py --out`` writes."""
from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
from mmdet.evaluation import CocoMetric, DumpDetResults
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..checkpoints import write_json
from ..data.annotation_file import FilePath
from ..data.masks import encode_masks
from ..errors import SettingError, UserError


class DetectionsError(UserError, ValueError):
    """Detections of a model that evaluation or writing rejects; the message names the image."""


def check_sample(sample: Mapping[str, Any]) -> None:
    """Check that a data sample has all fields that COCO's evaluation reads.

    Raises:
        SettingError: if it has no instances, or the test pipeline dropped the id or size of the image.
    """
    if 'pred_instances' not in sample:
        raise SettingError('the model predicts no instances (boxes), which COCO results are made of; --out FILE.pkl '
                           'writes any predictions')
    lacking = [key for key in ('img_id', 'ori_shape') if key not in sample]
    if lacking:
        raise SettingError(f'the test pipeline does not keep {lacking[0]}: PackDetInputs needs meta_keys with img_id '
                           'and ori_shape')


def encode_prediction(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a data sample for a COCO result, with compressed masks, as ``CocoMetric`` keeps them."""
    check_sample(sample)
    predicted = sample['pred_instances']
    kept = {key: predicted[key].cpu().numpy() for key in ('bboxes', 'scores', 'labels', 'mask_scores')
            if key in predicted}
    if 'masks' in predicted:
        masks = predicted['masks']
        kept['masks'] = encode_masks(masks.cpu().numpy()) if isinstance(masks, torch.Tensor) else masks
    return dict(kept, img_id=sample['img_id'])


def coco_records(predictions: Iterable[Mapping[str, Any]], category_ids: Sequence[Any]) -> list[dict[str, Any]]:
    """Convert predictions to COCO results.

    Args:
        predictions: of :func:`encode_prediction`: ``img_id``, ``bboxes`` (N, 4) as x1, y1, x2, y2,
            ``scores`` (N,), ``labels`` (N,), and, where there are any, ``masks``, N compressed RLE, and
            ``mask_scores`` (N,).
        category_ids: for each label the id of its category.

    Returns:
        For each detection a dict with ``image_id``, ``category_id``, ``bbox`` (x, y, w, h), ``score`` and, with masks,
        ``segmentation``; ``mask_score`` where it is not the box's score. A box that ends before it starts gets size 0:
        pycocotools would leave such a detection out instead of counting it as wrong.

    Raises:
        DetectionsError: for a box or score that is not finite, or a label without a category.
    """
    records, reversed_boxes = [], 0
    for prediction in predictions:
        boxes = np.array(prediction['bboxes'], np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        scores = np.asarray(prediction['scores'], np.float64)
        mask_scores = np.asarray(prediction.get('mask_scores', scores), np.float64)
        labels = prediction['labels'].tolist()
        _check_prediction(prediction, boxes, scores, mask_scores, labels, len(category_ids))
        reversed_boxes += int((boxes[:, 2:] < 0).any(1).sum())
        boxes[:, 2:] = boxes[:, 2:].clip(min=0)
        masks = prediction.get('masks')
        for index, (box, score, mask_score, label) in enumerate(
                zip(boxes.tolist(), scores.tolist(), mask_scores.tolist(), labels)):
            record = dict(image_id=prediction['img_id'], bbox=box, score=score, category_id=category_ids[label])
            if masks is not None:
                counts = masks[index]['counts']
                record['segmentation'] = dict(masks[index], size=list(masks[index]['size']),
                                              counts=counts.decode() if isinstance(counts, bytes) else counts)
                if mask_score != score:
                    record['mask_score'] = mask_score
            records.append(record)
    if reversed_boxes:
        print_log(f'{reversed_boxes} of {len(records)} detected boxes have a negative size: they count as boxes of '
                  'size 0', 'current', logging.WARNING)
    return records


def _check_prediction(prediction: Mapping[str, Any], boxes: np.ndarray, scores: np.ndarray, mask_scores: np.ndarray,
                      labels: Sequence[int], num_categories: int) -> None:
    image = prediction['img_id']
    for name, values in (('box', boxes), ('score', scores), ('mask score', mask_scores)):
        if not np.isfinite(values).all():
            raise DetectionsError(f'image {image!r}: the detector gives a {name} that is no finite number (NaN or '
                                  'infinity): look for NaN in its weights or in the training loss')
    unknown = [label for label in labels if not 0 <= label < num_categories]
    if unknown:
        raise DetectionsError(f'image {image!r}: the detector gives label {unknown[0]}, but there are {num_categories} '
                              'categories: num_classes of its heads must be the number of classes of the data set')


class ResultsFileHook(Hook):
    """Write all detections of a test to a file, before they are evaluated: they are kept even if the evaluation fails.

    Args:
        out: a name in .pkl or .pickle: predictions as mmdet's ``DumpDetResults`` writes them. In .json: COCO results,
            see :func:`coco_records`. With several data sets (``ConcatDataset``) each result has ``dataset`` too, the
            prefix that ``MultiDatasetsEvaluator`` has for it, else its number.
    """
    priority = 'VERY_LOW'

    def __init__(self, out: FilePath) -> None:
        self._out = str(out)
        self._dump: Optional[DumpDetResults] = None
        self._metric: Optional[CocoMetric] = None
        self._predictions: list[dict[str, Any]] = []

    def before_test(self, runner: Runner) -> None:
        """Look up, before the test, the data needed to write the file.

        Raises:
            SettingError: if a JSON file is asked for and the data set has no ids of categories.
        """
        if not self._out.endswith('.json'):
            self._dump = DumpDetResults(self._out)
            return
        # A CocoMetric keeps the predictions of all data sets, with masks that are encoded already.
        metrics = [metric for metric in runner.test_evaluator.metrics if isinstance(metric, CocoMetric)]
        self._metric = metrics[0] if metrics else None
        self._datasets = _named_datasets(runner)
        self._category_ids = {name: self._categories(dataset) for name, dataset in self._datasets.items()}

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Optional[Sequence] = None) -> None:
        """Keep the detections of a batch; after the last one, write them all."""
        samples = [output.to_dict() for output in outputs or ()]
        if self._dump is not None:
            self._dump.process(data_batch, samples)
        elif self._metric is None:
            self._predictions += [encode_prediction(sample) for sample in samples]
        if batch_idx == len(runner.test_dataloader) - 1:
            self._write(len(runner.test_dataloader.dataset))

    def _write(self, size: int) -> None:
        if self._dump is not None:
            self._dump.evaluate(size)
            return
        if self._metric is not None:
            self._predictions = [prediction for _, prediction in self._metric.results]
        predictions = collect_results(self._predictions, size, 'cpu')
        self._predictions = []
        if not is_main_process():
            return
        records, start = [], 0
        for name, dataset in self._datasets.items():
            own = coco_records(predictions[start:start + len(dataset)], self._category_ids[name])
            records += [dict(record, dataset=name) for record in own] if len(self._datasets) > 1 else own
            start += len(dataset)
        write_json(records, self._out, allow_nan=False)
        print_log(f'{len(records)} detections in {len(predictions)} images were written to {self._out}', 'current')

    def _categories(self, dataset: Any) -> Sequence[Any]:
        while not hasattr(dataset, 'cat_ids') and hasattr(dataset, 'dataset'):
            dataset = dataset.dataset
        if getattr(dataset, 'cat_ids', None):
            return dataset.cat_ids
        if self._metric is None:
            raise SettingError(f'cannot write {self._out}: {type(dataset).__name__} has no ids of COCO categories '
                               'and the config evaluates without CocoMetric; a .pkl works always')
        return range(len(dataset.metainfo['classes']))  # as CocoMetric numbers the categories of such a data set


def _named_datasets(runner: Runner) -> dict[str, Any]:
    """Return the data sets of a test in the order of its images, by the evaluator's names for them."""
    dataset = runner.test_dataloader.dataset
    datasets = getattr(dataset, 'datasets', [dataset])
    names = list(getattr(runner.test_evaluator, 'dataset_prefixes', ()))
    if len(set(names)) != len(datasets):
        names = [str(index) for index in range(len(datasets))]
    return dict(zip(names, datasets))
