"""MMDetection's ``CocoMetric`` with a choice of evaluator, ids of any kind, and checks of what it evaluates."""
from __future__ import annotations

import logging
import os.path as osp
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
from mmdet.datasets.api_wrappers import COCOevalMP
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import dump, get_local_path
from mmengine.logging import print_log
from torch import Tensor

from ..data.annotation_file import check_annotations, check_masks, read_json
from ..data.masks import encode_masks
from ..errors import SettingError
from .annotations import NumberedCoco, as_coco, check_objects, number_ids
from .coco_eval import CocoScores, check_max_dets, evaluate
from .detections import check_sample, coco_records
from .evaluators import evaluator_class
from .tables import class_table, table_text

_KINDS = ('bbox', 'segm', 'proposal', 'proposal_fast')


def item_names(proposal_nums: Sequence[int]) -> dict[str, str]:
    """Map the names of metric items to those of :class:`~swin_pos_det.evaluation.coco_eval.CocoScores`.

    mmdet calls the three recalls AR@100, AR@300 and AR@1000, regardless of ``proposal_nums``.
    """
    last = list(proposal_nums)[-1]
    return {'mAP': 'AP', 'mAP_50': 'AP50', 'mAP_75': 'AP75', 'mAP_s': 'APs', 'mAP_m': 'APm', 'mAP_l': 'APl',
            **{f'AR@{number}': f'AR@{number}' for number in proposal_nums},
            f'AR_s@{last}': 'ARs', f'AR_m@{last}': 'ARm', f'AR_l@{last}': 'ARl'}


def importance(name: str) -> tuple[bool, int, bool]:
    """Return a key that sorts metrics: AP of masks first, then of boxes, further values, and AP of single classes."""
    kind, _, item = name.rpartition('/')[2].partition('_')
    kinds = ('segm', 'bbox')
    return name.endswith('_precision'), kinds.index(kind) if kind in kinds else len(kinds), item != 'mAP'


@METRICS.register_module()
class SwinPosCocoMetric(CocoMetric):
    """``CocoMetric`` that is right for any ids, refuses settings without a right result, and may use faster-coco-eval.

    Arguments, files and names of metrics are mmdet's; so are the numbers, except where pycocotools silently gets them
    wrong (docs/evaluation.md lists these cases).

    Args:
        ann_file: the annotation file. None: the annotations of the samples, with boxes' areas for masks'.
        metric: one or several of ``'bbox'``, ``'segm'``, ``'proposal'``, ``'proposal_fast'``.
        *args, **kwargs: other arguments of ``CocoMetric``.
        evaluator: ``'pycocotools'`` or ``'faster'``.
        sort_categories: whether the categories of the file are sorted by id, as for ``Objects365V1Dataset``.

    Raises:
        SettingError: if there is no such metric, metric item or evaluator, ``proposal_nums`` or ``iou_thrs`` do not
            define AP, ``format_only`` has no file to write, or ``use_mp_eval`` asks for another evaluator as well.
        CocoFileError: if the annotation file is unreadable.
        MissingPackageError: if faster-coco-eval is asked for and not installed.
    """

    def __init__(self, ann_file: Optional[str] = None, metric: Union[str, Sequence[str]] = 'bbox', *args: Any,
                 evaluator: str = 'pycocotools', sort_categories: bool = False, **kwargs: Any) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        unknown = [name for name in metrics if name not in _KINDS]
        if unknown or not metrics:
            raise SettingError(f'metric must be one or several of {", ".join(_KINDS)}, got {metric!r}')
        if kwargs.get('format_only') and kwargs.get('outfile_prefix') is None:
            raise SettingError('format_only=True writes results and evaluates nothing, so it needs outfile_prefix, the '
                               'beginning of the files\' names')
        super().__init__(None, metrics, *args, **kwargs)  # the file is opened below
        self.evaluator = evaluator
        self._evaluator_class = evaluator_class(evaluator)
        self._check_settings()
        self.ann_file = ann_file
        self._truth: Optional[NumberedCoco] = None
        if ann_file is not None:
            self._open(ann_file, sort_categories)

    @property
    def dataset_meta(self) -> Any:
        """Return metainfo of the dataset that is evaluated; setting it checks the annotations for its classes."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: Any) -> None:
        self._dataset_meta = dataset_meta
        # A MultiDatasetsEvaluator gives each metric its own later.
        if isinstance(dataset_meta, Mapping) and self._coco_api is not None and 'classes' in dataset_meta:
            self._check_annotations(dataset_meta['classes'])

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the predictions of a batch; see ``CocoMetric.process``.

        Raises:
            SettingError: if masks are to be evaluated and there are none, or the test pipeline drops needed fields.
        """
        for sample in data_samples:
            check_sample(sample)
            if 'segm' in self.metrics and 'masks' not in sample['pred_instances']:
                raise SettingError("metric 'segm' evaluates masks, and the detector predicts none: evaluate 'bbox' "
                                   'alone, or give the detector a mask head')
            if self._coco_api is None and 'instances' not in sample:
                raise SettingError('the evaluator has no ann_file, and the test pipeline drops the annotations: '
                                   "give val_evaluator or test_evaluator ann_file=..., or PackDetInputs 'instances' in "
                                   'meta_keys')
        super().process(data_batch, [_with_encoded_masks(sample) for sample in data_samples])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics of all results; see ``CocoMetric.compute_metrics``.

        Raises:
            SettingError: if the annotations are not those of the evaluated images.
            DetectionsError: if detections are not finite, or of classes that the annotations lack.
        """
        if not results:
            raise SettingError('no image was evaluated: the data set is empty')
        truths, predictions = zip(*results)
        with tempfile.TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or osp.join(folder, 'results')
            if self._coco_api is None:
                dataset = read_json(self.gt_to_coco_json(truths, prefix))
                dataset.setdefault('annotations', [])
                check_objects(dataset, 'the annotations of the samples')
                self._coco_api = as_coco(dataset)
            self._check_images(truths, predictions)
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self._classes())
            self.img_ids = self._coco_api.get_img_ids()
            records = coco_records(predictions, self.cat_ids)
            if self.outfile_prefix is not None:
                _write_as_mmdet(records, prefix, 'masks' in predictions[0])
        if self.format_only:
            print_log(f'results are saved in {osp.dirname(prefix) or "."}', 'current')
            return OrderedDict()
        if not records:
            print_log('the detector found nothing in any image: AP and AR are 0', 'current', logging.WARNING)
        if self._truth is None:
            self._truth = number_ids(self._coco_api)
        measured: dict[str, float] = OrderedDict()
        for metric in self.metrics:
            print_log(f'Evaluating {metric}...', 'current')
            if metric == 'proposal_fast':
                measured.update(self._fast_recall(predictions))
            else:
                measured.update(self._measure(metric, records))
        # save_best='auto' of MMEngine's CheckpointHook takes the first.
        return OrderedDict(sorted(measured.items(), key=lambda pair: importance(pair[0])))

    def _open(self, path: str, sort_categories: bool = False) -> None:
        """Read the annotation file, in any of JSON's encodings."""
        self.ann_file = path
        with get_local_path(path, backend_args=self.backend_args) as local_path:
            dataset = read_json(local_path)
        check_annotations(dataset, path, evaluated=False, annotated=not self.format_only, loaded=False)
        if sort_categories:
            dataset['categories'] = sorted(dataset['categories'], key=lambda category: category['id'])
        self._coco_api = as_coco(dataset)

    def _check_settings(self) -> None:
        if self.use_mp_eval:
            if self.evaluator != 'pycocotools':
                raise SettingError('use_mp_eval=True evaluates with pycocotools in several processes, which evaluator='
                                   f'{self.evaluator!r} contradicts: set one of them')
            self._evaluator_class = COCOevalMP
        if set(self.metrics) - {'proposal_fast'}:
            check_max_dets(self.proposal_nums, 'proposal_nums', ap=bool({'bbox', 'segm'} & set(self.metrics)))
        self.iou_thrs = np.atleast_1d(np.asarray(self.iou_thrs, float))
        if not ((self.iou_thrs > 0) & (self.iou_thrs <= 1)).all() or (np.diff(self.iou_thrs) <= 0).any():
            raise SettingError(f'iou_thrs must be ascending, above 0 and at most 1, got {self.iou_thrs.tolist()}')
        known = self._items(all_of_them=True)
        unknown = [name for name in self.metric_items or () if name not in known]
        if unknown:
            raise SettingError(f'metric_items has {unknown[0]!r}; with proposal_nums='
                               f'{tuple(self.proposal_nums)} and these iou_thrs there are {", ".join(known)}')

    def _items(self, metric: str = 'bbox', all_of_them: bool = False) -> dict[str, str]:
        """Map the metric items to report to the names of ``CocoScores``."""
        names = item_names(self.proposal_nums)
        for item, threshold in (('mAP_50', 0.5), ('mAP_75', 0.75)):
            if not np.isclose(self.iou_thrs, threshold).any():
                del names[item]
        if all_of_them:
            return names
        if self.metric_items is not None:
            return {name: names[name] for name in self.metric_items}
        return {name: ours for name, ours in names.items() if name.startswith('AR') == (metric == 'proposal')}

    def _classes(self) -> Sequence[str]:
        if not isinstance(self.dataset_meta, Mapping):
            raise SettingError('the data sets (ConcatDataset) differ in their metainfo, and one evaluator takes one: '
                               "evaluate with type='MultiDatasetsEvaluator', a metric and a prefix for each data set")
        return self.dataset_meta['classes']

    def _check_annotations(self, classes: Sequence[str]) -> None:
        """Check, after the classes are known, that the annotations fit them.

        Raises:
            CocoFileError: if a class or a mask is missing, or there is no object to find.
        """
        names = [category['name'] for category in self._coco_api.dataset.get('categories') or []]
        missing = [name for name in classes if name not in names]
        if missing:
            raise SettingError(f'{self.ann_file}, the ann_file of the evaluator, has no category {missing[0]!r} (nor '
                               f"{len(missing) - 1} others of the data set's {len(classes)} classes): it must be the "
                               'annotation file of the evaluated data set')
        if self.format_only or self.ann_file is None:
            return
        check_annotations(self._coco_api.dataset, self.ann_file, loaded=False, classes=classes)
        check_objects(self._coco_api.dataset, self.ann_file, classes)
        if 'segm' in self.metrics and self._truth is None:
            check_masks(self._coco_api.dataset, self.ann_file, classes=classes)

    def _check_images(self, truths: Sequence[dict], predictions: Sequence[dict]) -> None:
        """Check that the evaluated images are those of the annotations."""
        images, found = self._coco_api.imgs, [prediction['img_id'] for prediction in predictions]
        setting = f"{self.ann_file}, the evaluator's ann_file (val_evaluator or test_evaluator),"
        unknown = [image for image in found if image not in images]
        if unknown:
            raise SettingError(f'{setting} has not {len(unknown)} of the {len(found)} images that were evaluated, such '
                               f'as the one with id {unknown[0]!r}: it must be the annotation file of the evaluated '
                               'data set')
        twice, times = Counter(found).most_common(1)[0]
        if times > 1:
            raise SettingError(f'{times} evaluated images have the id {twice!r}: for several data sets (ConcatDataset) '
                               "evaluate with type='MultiDatasetsEvaluator', a metric and a prefix for each")
        if 'segm' in self.metrics:
            for truth, image in zip(truths, found):
                size, expected = (truth['height'], truth['width']), (images[image]['height'], images[image]['width'])
                if size != expected:
                    raise SettingError(f'{setting} says that image {image!r} is {expected[0]} x {expected[1]} (height '
                                       f'x width), but the one evaluated is {size[0]} x {size[1]}: masks must '
                                       'have the same size')
        missed = len(images) - len(found)
        if missed:
            print_log(f'{missed} of the {len(images)} images of {self.ann_file} were not evaluated: their objects '
                      'count as missed', 'current', logging.WARNING)

    def _measure(self, metric: str, records: list[dict[str, Any]]) -> dict[str, float]:
        """Evaluate boxes, masks or proposals; the metrics have mmdet's names, and -1 where there are no objects."""
        proposals = metric == 'proposal'
        scores = evaluate(self._truth, records, 'bbox' if proposals else metric, self._evaluator_class,
                          self.proposal_nums, self._classes(), iou_thresholds=self.iou_thrs,
                          use_categories=not proposals)
        print_log(f'\n{scores.summary}', 'current')
        measured = _per_class(scores) if self.classwise and not proposals else {}
        for item, ours in self._items(metric).items():
            value = -1. if np.isnan(scores.stats[ours]) else scores.stats[ours]
            # mmdet rounds the ones as NumPy does, the others as Python.
            if proposals:
                measured[item] = float(f'{value:.3f}')
            else:
                measured[f'{metric}_{item}'] = float(np.round(value, 3))
        if not proposals:
            numbers = ' '.join(f'{-1. if np.isnan(value) else value:.3f}' for value in list(scores.stats.values())[:6])
            print_log(f'{metric}_mAP_copypaste: {numbers}', 'current')
        return measured

    def _fast_recall(self, predictions: Sequence[dict]) -> dict[str, float]:
        """Return the class-agnostic recall of boxes, for images evaluated in any order."""
        boxes = {prediction['img_id']: prediction for prediction in predictions}
        nothing = dict(bboxes=np.zeros((0, 4), np.float32))
        recalls = self.fast_eval_recall([boxes.get(image, nothing) for image in self.img_ids], self.proposal_nums,
                                        self.iou_thrs)
        measured = {f'AR@{number}': recall for number, recall in zip(self.proposal_nums, recalls)}
        print_log(''.join(f'\n{name}\t{recall:.4f}' for name, recall in measured.items()), 'current')
        return measured


def _with_encoded_masks(sample: dict) -> dict:
    """Return the sample with run-length masks, which mmdet's metric takes as they are."""
    masks = sample['pred_instances'].get('masks')
    if not isinstance(masks, Tensor):
        return sample
    encoded = encode_masks(masks.cpu().numpy())
    return dict(sample, pred_instances=dict(sample['pred_instances'], masks=encoded))


def _per_class(scores: CocoScores) -> dict[str, float]:
    """Return the AP of each class by its name, as mmdet reports it."""
    print_log(f'\n{table_text(class_table(scores))}', 'current')
    return {f'{row["name"]}_precision': np.round(row['AP'], 3) for row in scores.per_class}


def _write_as_mmdet(records: Sequence[dict[str, Any]], prefix: str, with_masks: bool) -> None:
    """Write ``<prefix>.bbox.json`` and, for a detector with masks, ``<prefix>.segm.json``."""
    boxes = [{key: record[key] for key in ('image_id', 'bbox', 'score', 'category_id')} for record in records]
    dump(boxes, f'{prefix}.bbox.json')
    if with_masks:
        dump([dict(box, score=record.get('mask_score', box['score']), segmentation=record['segmentation'])
              for box, record in zip(boxes, records)], f'{prefix}.segm.json')
