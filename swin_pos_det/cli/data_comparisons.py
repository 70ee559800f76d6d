"""Comparing the data of a config: labels of training, validation and checkpoint; datasets and their evaluators."""
from __future__ import annotations

import logging
import os.path as osp
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from ..data.annotation_file import CocoFileError, read_json
from ..data.coco_datasets import Kept
from ..errors import SettingError
from ..type_names import type_name

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass
class Reader:
    """A dataset or a metric of a config that reads an annotation file.

    Attributes:
        part: ``'train'``, ``'val'`` or ``'test'``.
        where: its place in the config, such as ``'val_dataloader.dataset'``.
        settings: its part of the config.
        path: the file.
        dataset: the dataset, which has not read the file yet; None for a metric.
        evaluates: whether AP is computed against the file.
        kept: the objects and images that the dataset keeps of the file, after it was read.
        look: see :func:`~swin_pos_det.data.objects.look_of_boxes`.
    """
    part: str
    where: str
    settings: MutableMapping
    path: str
    dataset: Optional[CocoDataset] = None
    evaluates: bool = False
    kept: Optional[Kept] = None
    look: Optional[str] = None

    @property
    def classes(self) -> Sequence[str]:
        """Return the class names in the dataset's settings; none for a metric."""
        return [] if self.dataset is None else list(self.dataset.metainfo.get('classes') or ())


@dataclass(frozen=True)
class FileSummary:
    """The summary of an annotation file.

    Attributes:
        names: of its categories, in its order.
        images: (file name, height, width) of each image, by its id, in its order.
    """
    names: list[str]
    images: dict[Any, tuple[str, float, float]] = field(repr=False)

    @classmethod
    def of(cls, content: dict[str, Any]) -> FileSummary:
        """Summarize a file's content."""
        images = {image['id']: (osp.basename(image.get('file_name', '')), image['height'], image['width'])
                  for image in content['images']}
        return cls([category['name'] for category in content.get('categories') or []], images)

    def labels(self, classes: Sequence[str]) -> list[str]:
        """Return the names of labels 0, 1, ...: mmdet numbers them in the order of the file, not of its classes."""
        return [name for name in self.names if not classes or name in classes]


def check_named_files(readers: Sequence[Reader], parts: Sequence[str]) -> None:
    """Check that evaluators name files that exist, before anything is read.

    Raises:
        SettingError: for one that does not, if the dataset reads another: it was left at the base config's.
    """
    for part in parts:
        datasets = [reader for reader in readers if reader.part == part and reader.dataset is not None]
        for metric in (reader for reader in readers if reader.part == part and reader.dataset is None):
            if datasets and metric.path not in [reader.path for reader in datasets] and not osp.isfile(metric.path):
                raise SettingError(f'{metric.where}.ann_file is {metric.path}, which does not exist, and '
                                   f'{datasets[0].where} reads {datasets[0].path}: {_set_to(metric, datasets)}')


def check_labels(cfg: Config, readers: Sequence[Reader], summaries: dict[str, FileSummary],
                 checkpoint_classes: Optional[Sequence[str]] = None) -> None:
    """Check by the names of classes that a label means the same in the training, the evaluation and the checkpoint.

    Raises:
        SettingError: if the label of a name differs between them, with the right order. Labels whose
            names have nothing in common, and names that do not stand in the order of their file, are logged.
    """
    known = [(reader, summaries[reader.path].labels(reader.classes)) for reader in readers
             if reader.dataset is not None and reader.path in summaries]
    for reader, labels in known:
        if reader.classes and labels and labels != reader.classes:
            _warn(f'{reader.path} has its categories in another order than {reader.where}.metainfo.classes: '
                  'MMDetection numbers them by the file, so pictures and predictions will name them wrongly. Give '
                  f'metainfo=dict(classes={tuple(labels)}) to all data sets')
    for reader, labels in known[1:]:
        first, expected = known[0]
        _compare_labels(expected, labels, first.path, reader.path)
    for reader, labels in known if checkpoint_classes else ():
        if (_clash(checkpoint_classes, labels) and reader.classes == list(checkpoint_classes)
                and _numbered_as_trained(cfg, labels)):
            continue  # the training already had wrong names and right labels
        _compare_labels(checkpoint_classes, labels, 'the checkpoint', reader.path)


def check_evaluated_files(cfg: Config, readers: Sequence[Reader], summaries: dict[str, FileSummary],
                     parts: Sequence[str]) -> None:
    """Check that results are compared with the annotations of their own images.

    Raises:
        SettingError: if an evaluator's file lacks images that its dataset reads, or has others under their ids, or its
            categories in another order. Images that an evaluator expects and no dataset reads are logged.
    """
    for part in parts:
        own = [reader for reader in readers if reader.part == part]
        datasets = [reader for reader in own if reader.dataset is not None]
        metrics = [reader for reader in own if reader.dataset is None]
        evaluator = cfg.get(f'{part}_evaluator')
        multiple = isinstance(evaluator, MutableMapping) and type_name(evaluator) == 'MultiDatasetsEvaluator'
        if not datasets or any(reader.path not in summaries for reader in own) or (
                len(datasets) < _count_datasets(cfg.get(f'{part}_dataloader'))):
            continue  # not all of it is known
        if multiple and len(metrics) == len(datasets):
            pairs = [(metric, [dataset]) for metric, dataset in zip(metrics, datasets)]
        else:
            pairs = [(metric, datasets) for metric in metrics]
        for metric, compared in pairs:
            _compare_evaluator(metric, compared, summaries)


def _compare_evaluator(metric: Reader, datasets: list[Reader], summaries: dict[str, FileSummary]) -> None:
    truth = summaries[metric.path]
    read: set[Any] = set()
    for dataset in datasets:
        own = summaries[dataset.path]
        ids = list(own.images)
        chosen = [ids[row] for row in dataset.kept.rows.tolist()] if dataset.kept is not None else ids
        if not _same_file(dataset.path, metric.path):
            problem = _image_problem(own, truth) if metric.evaluates else None
            problem = problem or _label_problem(own.labels(dataset.classes), truth.labels(dataset.classes))
            if problem is None and read & set(chosen):
                problem = f'image id {next(iter(read & set(chosen)))!r} is in two of the data sets'
            if problem is not None:
                raise SettingError(f'{metric.where}.ann_file is {metric.path}, and {dataset.where} reads '
                                   f'{dataset.path}: {problem}. {_set_to(metric, datasets)}')
        read.update(chosen)
    unread = len(truth.images) - len(read)
    if unread > 0 and metric.evaluates:
        _warn(f'{metric.where} expects the {len(truth.images)} images of {metric.path}, and {len(read)} are read: AP '
              f'counts the objects in the other {unread} as missed')


def _image_problem(own: FileSummary, truth: FileSummary) -> Optional[str]:
    lacking = [image_id for image_id in own.images if image_id not in truth.images]
    if lacking:
        return (f'{len(lacking)} of its {len(own.images)} images are not in the file of the evaluator, such as '
                f'{own.images[lacking[0]][0]!r} (id {lacking[0]!r})')
    other = next((key for key, image in own.images.items() if image != truth.images[key]), None)
    if other is None:
        return None
    one, two = own.images[other], truth.images[other]
    if one[0] != two[0]:
        return f'image {other!r} is {one[0]!r} here and {two[0]!r} there'
    return f'image {other!r} is {one[2]} x {one[1]} here and {two[2]} x {two[1]} there'


def _label_problem(own: list[str], truth: list[str]) -> Optional[str]:
    clash = _clash(own, truth)
    if clash is not None:
        return f'label {clash[1]} is {clash[0]!r} here, and {clash[2]} there'
    return None if len(own) == len(truth) else f'it has {len(own)} classes, and the other {len(truth)}'


def _set_to(metric: Reader, datasets: list[Reader]) -> str:
    setting = 'test_evaluator' if metric.part == 'test' else f'{metric.part}_evaluator'
    if len(datasets) == 1:
        also = ' (and test_evaluator = val_evaluator)' if metric.part == 'val' else ''
        return f"set {metric.where}.ann_file='{datasets[0].path}'{also}"
    return (f"a data set of {len(datasets)} files needs {setting}=dict(type='MultiDatasetsEvaluator', metrics=[one "
            'CocoMetric for each file], dataset_prefixes=[...]), or one file that joins them')


def _compare_labels(expected: Sequence[str], found: Sequence[str], source: str, path: str) -> None:
    clash = _clash(expected, found)
    if clash is not None:
        name, label, other = clash
        right = tuple(name for name in expected if name in found)
        raise SettingError(
            f'class {name!r} has label {label} in {source} and {other} in {path}, so predictions would be compared '
            "with other classes. MMDetection numbers classes in the order of a file's categories; bring them into the "
            f'order {right}: python tools/analysis_tools/check_coco.py {path} --fix OUT.json --classes '
            f'{" ".join(map(repr, right))}')
    differing = [(one, two) for one, two in zip(expected, found) if _plain(one) != _plain(two)]
    if differing:
        _warn(f'{len(differing)} classes of {path} have other names in {source}, such as {differing[0][1]!r} and '
              f'{differing[0][0]!r}; they are matched by their place')


def _clash(expected: Sequence[str], found: Sequence[str]) -> Optional[tuple[str, int, int]]:
    """Return (name, its label in one, its label in the other) of the first name whose labels differ."""
    labels = {_plain(name): label for label, name in enumerate(found)}
    return next(((name, label, labels[_plain(name)]) for label, name in enumerate(expected)
                 if labels.get(_plain(name), label) != label), None)


def _plain(name: str) -> str:
    return ' '.join(name.casefold().replace('_', ' ').replace('-', ' ').split())


def _numbered_as_trained(cfg: Config, labels: list[str]) -> bool:
    """Return whether the file of the config's training, if it exists, gives the same labels."""
    settings = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while isinstance(settings.get('dataset'), MutableMapping):
        settings = settings['dataset']
    path = osp.join(settings.get('data_root') or '', settings.get('ann_file') or '')
    if not osp.isfile(path):
        return False
    try:
        names = FileSummary.of(read_json(path)).names
    except (CocoFileError, KeyError, TypeError, AttributeError):
        return False
    return [name for name in names if name in labels] == labels


def _count_datasets(node: Any) -> int:
    """Count the datasets below a data loader that are not wrappers of others."""
    if isinstance(node, (list, tuple)):
        return sum(map(_count_datasets, node))
    if not isinstance(node, MutableMapping):
        return 0
    inner = [node[key] for key in ('dataset', 'datasets') if key in node]
    return sum(map(_count_datasets, inner)) if inner else 1


def _same_file(one: str, other: str) -> bool:
    return osp.realpath(one) == osp.realpath(other)


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
