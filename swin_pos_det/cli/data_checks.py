"""Checks of the data that a config names, before anything is built."""
from __future__ import annotations

import os
import os.path as osp
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS

from ..data.annotation_file import check_annotations, check_classes, check_masks, read_json
from ..data.coco_root import SECTIONS
from ..evaluation import SwinPosCocoMetric

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.registry import Registry

# Where all of these are CocoDataset's own, files are read as it reads them.
_COCOS_WAY = ('COCOAPI', '__init__', 'full_init', 'load_data_list', 'parse_data_info', '_join_prefix', '_load_metainfo')

# What launchers call the number of a process; torchrun's own comes first.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def check_configured(cfg: Config, needed_for: Iterable[str] = ('train', 'val')) -> None:
    """Checks the annotation files that a config names, each once; in a distributed run, in the first process only.

    Looked at are the files of ``CocoDataset`` and ``CocoMetric``, and of their subclasses that read them the same way;
    files elsewhere (``s3://``, or another backend) are not.

    Args:
        cfg: an MMDetection config.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        CocoFileError: see :func:`check_annotations`, :func:`check_masks` and :func:`check_classes`.
    """
    if next((os.environ[rank] for rank in _RANKS if rank in os.environ), '0') != '0':
        return
    users: dict[str, list[MutableMapping]] = {}
    metrics: dict[str, list[MutableMapping]] = {}
    for section in dict.fromkeys(section for part in needed_for for section in SECTIONS[part]):
        readers = metrics if section.endswith('evaluator') else users
        for path, node in _with_annotations(cfg.get(section)):
            if readers is metrics and _is_coco_metric(node) or readers is users and _is_coco_dataset(node):
                readers.setdefault(path, []).append(node)
    for path in dict.fromkeys([*users, *metrics]):
        _check_file(path, users.get(path, []), metrics.get(path, []))


def _check_file(path: str, datasets: Sequence[MutableMapping], evaluations: Sequence[MutableMapping]) -> None:
    """Checks one file for all that will read it; what it holds is forgotten before the next is read."""
    found = read_json(path)
    known = [classes for classes in map(_classes_of, datasets) if classes]
    classes = list(dict.fromkeys(name for names in known for name in names)) or None
    filtered = any((dataset.get('filter_cfg') or {}).get('filter_empty_gt') and not dataset.get('test_mode')
                   for dataset in datasets)
    check_annotations(found, path, bool(evaluations), bool(evaluations) or filtered, bool(datasets), classes)
    masks_count = any('segm' in (metric.get('metric') or '') for metric in evaluations)
    if masks_count or any(map(_loads_masks, datasets)):
        check_masks(found, path, masks_count, classes)
    for names in known if found.get('categories') else ():
        check_classes(found, names, path)


def coco_datasets(node: Any) -> Iterator[tuple[str, Sequence[str]]]:
    """(annotation file, classes) of each ``CocoDataset`` below a part of a config."""
    for path, dataset in _with_annotations(node):
        if _is_coco_dataset(dataset):
            yield path, _classes_of(dataset)


def _with_annotations(node: Any) -> Iterator[tuple[str, MutableMapping]]:
    """(annotation file on this machine, settings) of each dataset or metric below ``node`` that names one."""
    if isinstance(node, MutableSequence):
        for item in node:
            yield from _with_annotations(item)
    elif isinstance(node, MutableMapping):
        root, name = node.get('data_root') or '', node.get('ann_file') or ''
        local = (node.get('backend_args') or {}).get('backend', 'local') == 'local'
        if isinstance(name, str) and name and isinstance(root, str) and '://' not in root + name and local:
            yield osp.join(root, name), node
        for key, value in node.items():
            if key not in ('pipeline', 'metainfo'):
                yield from _with_annotations(value)


def _is_coco_metric(settings: MutableMapping) -> bool:
    return _built_as(settings, METRICS) in (CocoMetric, SwinPosCocoMetric) and not settings.get('format_only')


def _is_coco_dataset(settings: MutableMapping) -> bool:
    kind = _built_as(settings, DATASETS)
    return isinstance(kind, type) and issubclass(kind, CocoDataset) and all(
        _same(getattr(kind, name), getattr(CocoDataset, name)) for name in _COCOS_WAY)


def _same(one: Any, other: Any) -> bool:
    return getattr(one, '__func__', one) is getattr(other, '__func__', other)


def _built_as(settings: MutableMapping, registry: Registry) -> Any:
    kind = settings.get('type')
    return registry.get(kind) if isinstance(kind, str) else kind


def _loads_masks(dataset: MutableMapping) -> bool:
    return any(step.get('with_mask') for step in dataset.get('pipeline') or [] if isinstance(step, MutableMapping))


def _classes_of(dataset: MutableMapping) -> Sequence[str]:
    """Its names; none where they are given as one text, of which mmdet takes any part for a name."""
    kind = _built_as(dataset, DATASETS)
    classes = kind._load_metainfo(dataset.get('metainfo') or {}).get('classes') or ()
    return () if isinstance(classes, str) else classes
