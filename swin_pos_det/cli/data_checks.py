"""Checks of the data that a config names, before anything is built.

MMDetection drops objects, numbers classes by the order of a file, and compares results with another file, all without a
message. Here such cases are counted and logged, and are errors if nothing is left or numbers would be wrong.
"""
from __future__ import annotations

import logging
import os
import os.path as osp
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS, TRANSFORMS
from mmengine.logging import print_log

from ..data.annotation_file import (
    CocoFileError,
    check_annotations,
    check_classes,
    check_encoding,
    check_masks,
    no_garbage_collection,
    read_json,
)
from ..data.coco_datasets import build_unread, check_class_names, dataset_class, keep
from ..data.coco_root import SECTIONS, check_coco_root
from ..data.images import ImageFileError, check_files, sample, size_faults
from ..data.objects import LOOKS, Objects, evaluated, look_of_boxes
from ..evaluation import SwinPosCocoMetric
from ..type_names import resolve_type, type_name
from .data_comparisons import FileSummary, Reader, check_evaluated_files, check_labels, check_named_files

if TYPE_CHECKING:
    from mmengine.config import Config

# Environment variables with the rank of a process; torchrun's comes first.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
# Names of a list that are shown.
_MAX_NAMES = 5


def check_configured(cfg: Config, needed_for: Iterable[str] = ('train', 'val'),
                     checkpoint_classes: Optional[Sequence[str]] = None) -> None:
    """Check the annotation files and images that a config names; in a distributed run, in the first process only.

    The checks cover the files of ``CocoDataset``, of classes that read them in the same way, and of ``CocoMetric``, but
    not files elsewhere (``s3://``, or another backend). Each file is read once and freed before the next.

    Args:
        cfg: an MMDetection config.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``.
        checkpoint_classes: of the ``dataset_meta`` of the checkpoint that is evaluated or resumed, if any.

    Raises:
        CocoRootError: see :func:`~swin_pos_det.data.coco_root.check_coco_root`.
        CocoFileError, ImageFileError, SettingError: if a file is unusable, nothing is left to learn or to find, or
            parts of the config do not fit each other. The rest is logged.
    """
    parts = list(needed_for)
    if next((os.environ[rank] for rank in _RANKS if rank in os.environ), '0') != '0':
        return
    readers = [reader for part in parts for reader in _readers(cfg, part)]
    check_named_files(readers, parts)
    check_coco_root(cfg, parts)
    summaries: dict[str, FileSummary] = {}
    for path in dict.fromkeys(reader.path for reader in readers if reader.path is not None):
        own = [reader for reader in readers if reader.path == path]
        if osp.isfile(path) or not all(hasattr(reader.dataset, 'check_settings') for reader in own):
            with no_garbage_collection():
                summaries[path] = _check_file(path, own, _skips_images(cfg))
    _check_something_to_learn(readers)
    check_labels(cfg, readers, summaries, checkpoint_classes)
    check_evaluated_files(cfg, readers, summaries, parts)


def name_bad_images(cfg: Config) -> None:
    """Replace mmcv's ``LoadImageFromFile`` in the pipelines of a config by one that names unusable files.

    With ``skip_unreadable_images=True`` in the config, such images are left out of the training.
    """
    skip = _skips_images(cfg)
    for section in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for step in _steps(cfg.get(section)):
            if type_name(step) == 'LoadImageFromFile' and resolve_type(TRANSFORMS, step).__module__.startswith('mmcv.'):
                step['type'] = 'mmdet.SwinPosLoadImageFromFile'
            if skip and section.startswith('train') and type_name(step) == 'SwinPosLoadImageFromFile':
                step['ignore_empty'] = True


def coco_datasets(node: Any) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield (annotation file, classes) of each ``CocoDataset`` below a part of a config."""
    for where, settings in _with_annotations(node, ''):
        if dataset_class(settings) is not None:
            check_class_names(settings, where.lstrip('.'))
            dataset = build_unread(settings)
            if dataset is not None:
                path = osp.join(settings.get('data_root') or '', settings['ann_file'])
                yield path, dataset.metainfo.get('classes') or ()


def _readers(cfg: Config, part: str) -> Iterator[Reader]:
    """Yield the datasets and metrics of ``part`` that read COCO files on this machine."""
    for section in SECTIONS[part]:
        for where, settings in _with_annotations(cfg.get(section), section):
            if section.endswith('evaluator'):
                kind = resolve_type(METRICS, settings)
                if isinstance(kind, type) and issubclass(kind, CocoMetric):
                    same = kind in (CocoMetric, SwinPosCocoMetric) and not settings.get('format_only')
                    yield Reader(part, where, settings, settings.get('ann_file'), evaluates=same)
            elif dataset_class(settings) is not None:
                check_class_names(settings, where)
                dataset = build_unread(settings)
                if dataset is not None:
                    if hasattr(dataset, 'check_settings'):
                        dataset.check_settings()
                    yield Reader(part, where, settings, dataset.ann_file, dataset)


def _check_file(path: str, readers: Sequence[Reader], skips_images: bool) -> FileSummary:
    """Check one file for all of its readers."""
    content = read_json(path)
    check_encoding(path)
    datasets = [reader for reader in readers if reader.dataset is not None]
    evaluations = [reader for reader in readers if reader.evaluates]
    known = [reader.classes for reader in datasets if reader.classes]
    classes = list(dict.fromkeys(name for names in known for name in names)) or None
    filtered = any((reader.dataset.filter_cfg or {}).get('filter_empty_gt') and not reader.dataset.test_mode
                   for reader in datasets)
    check_annotations(content, path, bool(evaluations), bool(evaluations) or filtered, bool(datasets), classes)
    metrics = [reader for reader in readers if reader.dataset is None]
    if 'categories' not in content or metrics and not content['categories']:
        raise CocoFileError(f'{path} has no categories, from which MMDetection takes the ids of its results: add '
                            "categories=[dict(id=1, name='...'), ...] as in the training's file")
    for names in known if content['categories'] else ():
        check_classes(content, names, path)
    objects = Objects(content)
    for reader in datasets:
        _check_dataset(reader, content, objects, skips_images)
    _check_masks_once(path, content, datasets, evaluations, classes)
    for reader in evaluations:
        _check_evaluation(reader, objects, classes)
    return FileSummary.of(content)


def _check_dataset(reader: Reader, content: dict[str, Any], objects: Objects, skips_images: bool) -> None:
    path, masks = reader.path, _mask_kind(reader.settings)
    kept = reader.kept = keep(reader.dataset, content, objects, masks)
    reader.look = look_of_boxes(objects)
    if reader.part == 'train':
        _say(f'{path}: {kept.images}, {kept.objects}', kept.images.dropped or kept.objects.dropped)
        if kept.images.left == 0:
            raise CocoFileError(f'{path}: nothing is left to train on: {kept.images}; see filter_cfg of {reader.where}')
        empty = [name for name, number in kept.per_class.items() if number == 0]
        if empty and kept.objects.left:
            _say(f'{path}: {len(empty)} of {len(kept.per_class)} classes have no object to learn: {_few(empty)}', True)
    if reader.look is not None:
        _say(f'{path}: {LOOKS[reader.look]}', True)
    images = [content['images'][row] for row in kept.rows.tolist()]
    _check_images(reader, images, masks is not None, skips_images)


def _check_masks_once(path: str, content: dict[str, Any], datasets: Sequence[Reader], evaluations: Sequence[Reader],
                      classes: Optional[Sequence[str]]) -> None:
    """Check the masks that any reader of a file uses: an evaluation uses all that a training does."""
    if any('segm' in (reader.settings.get('metric') or '') for reader in evaluations):
        check_masks(content, path, True, classes)
        return
    used = [reader.kept.loaded for reader in datasets
            if reader.kept.loaded is not None and _mask_kind(reader.settings) is not None]
    if used:
        check_masks(content, path, evaluated=False, kept=np.logical_or.reduce(used))


def _check_evaluation(reader: Reader, objects: Objects, classes: Optional[Sequence[str]]) -> None:
    """Check that a file with ground truth has objects that results can match."""
    path = reader.path
    kept, tally = evaluated(objects, classes)
    look = look_of_boxes(objects)
    if look == 'shares':
        raise CocoFileError(f'{path}: nothing can be found: {LOOKS[look]}. AP would be 0')
    if tally.left == 0:
        raise CocoFileError(f'{path}: nothing can be found: {tally}. AP would be -1 or 0 for any detections')
    _say(f'{path}: {tally} of the evaluation', tally.dropped)


def _check_images(reader: Reader, images: Sequence[dict[str, Any]], with_masks: bool, skips_images: bool) -> None:
    """Check that a dataset's image files exist, and compare the sizes of some."""
    step = next((step for step in reader.settings.get('pipeline') or [] if isinstance(step, MutableMapping)), {})
    local = (step.get('backend_args') or {}).get('backend', 'local') == 'local'
    folder = (reader.dataset.data_prefix or {}).get('img', '')
    if not type_name(step).endswith('LoadImageFromFile') or not local or '://' in folder or not images:
        return
    try:
        check_files(folder, [image['file_name'] for image in images], reader.path)
    except ImageFileError as error:
        if not (skips_images and reader.part == 'train'):
            raise
        _say(f'{error}; skip_unreadable_images is set', True)
        return
    chosen = sample(images)
    flag = step.get('color_type', 'color')
    faults = size_faults(folder, chosen, flag.endswith('ignore_orientation') or flag == 'unchanged')
    if not faults:
        return
    first, fault = next(iter(faults.items()))
    message = f'{len(faults)} of {len(chosen)} images of {reader.path} are not as it says: {first} {fault}'
    if 'is not readable' in fault and skips_images:
        _say(message, True)
        return
    raise ImageFileError(f'{message}. check_coco.py {reader.path} {folder} --fix OUT.json corrects the sizes')


def _check_something_to_learn(readers: Sequence[Reader]) -> None:
    """Raise if no data set of the training has an object to learn from."""
    trained = [reader for reader in readers if reader.part == 'train' and reader.dataset is not None]
    counted = [reader.kept for reader in trained if reader.kept is not None]
    if not trained or len(counted) < len(trained) or any(kept.objects.left for kept in counted):
        return
    first = trained[0]
    why = f': {LOOKS[first.look]}' if first.look else ''
    raise CocoFileError(f'{first.path}: no object is left to learn: {first.kept.objects}{why}')


def _mask_kind(settings: MutableMapping) -> Optional[str]:
    for step in _steps(settings.get('pipeline')):
        if step.get('with_mask'):
            return 'bitmap' if step.get('poly2mask', True) else 'polygon'
    return None


def _skips_images(cfg: Config) -> bool:
    return bool(cfg.get('skip_unreadable_images', False))


def _say(message: str, important: Any) -> None:
    print_log(message, logger='current', level=logging.WARNING if important else logging.INFO)


def _few(names: Sequence[str]) -> str:
    return ', '.join(names[:_MAX_NAMES]) + (', ...' if len(names) > _MAX_NAMES else '')


def _steps(node: Any) -> Iterator[MutableMapping]:
    """Yield every step of the pipelines below ``node``, including nested ones."""
    if isinstance(node, MutableSequence):
        for item in node:
            yield from _steps(item)
    elif isinstance(node, MutableMapping):
        yield node
        for value in node.values():
            yield from _steps(value)


def _with_annotations(node: Any, where: str) -> Iterator[tuple[str, MutableMapping]]:
    """Yield (place in the config, settings) of each dataset or metric below ``node`` that names a local file."""
    if isinstance(node, MutableSequence):
        for index, item in enumerate(node):
            yield from _with_annotations(item, f'{where}[{index}]')
    elif isinstance(node, MutableMapping):
        root, name = node.get('data_root') or '', node.get('ann_file') or ''
        local = (node.get('backend_args') or {}).get('backend', 'local') == 'local'
        if isinstance(name, str) and name and isinstance(root, str) and '://' not in root + name and local:
            yield where, node
        for key, value in node.items():
            if key not in ('pipeline', 'metainfo'):
                yield from _with_annotations(value, f'{where}.{key}')
