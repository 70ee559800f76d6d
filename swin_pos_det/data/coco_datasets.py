"""Read annotation files as mmdet's ``CocoDataset`` and its subclasses do."""
from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from ..errors import SettingError
from ..type_names import resolve_type
from .objects import Objects, Tally, learned, loaded, used_images

# If a class inherits all of these from CocoDataset, it reads the file in the same way.
_READING = ('COCOAPI', 'full_init', 'load_data_list')


@dataclass(frozen=True)
class Kept:
    """The objects and images that a dataset keeps of a file.

    Attributes:
        objects, images: the counts, and the reasons why others are dropped.
        per_class: objects to learn from, by class.
        rows: indices of the kept images.
        loaded: (N,) booleans, the objects whose masks are read; None for a class with rules of its own.
    """
    objects: Tally
    images: Tally
    per_class: dict[str, int]
    rows: np.ndarray
    loaded: Optional[np.ndarray]


def dataset_class(settings: Mapping) -> Optional[type]:
    """Return the class that a dataset's settings name, if it reads COCO files as ``CocoDataset`` does; else None.

    A class that overrides the loading with an equivalent one can set ``READS_AS_COCO = True``.
    """
    kind = resolve_type(DATASETS, settings)
    if not isinstance(kind, type) or not issubclass(kind, CocoDataset):
        return None
    same = all(_same(getattr(kind, name), getattr(CocoDataset, name)) for name in _READING)
    return kind if same or getattr(kind, 'READS_AS_COCO', False) else None


def build_unread(settings: MutableMapping) -> Optional[CocoDataset]:
    """Build the dataset without its pipeline and before it reads its file; None if its class does not allow it."""
    kind = dataset_class(settings)
    if kind is None:
        return None
    given = {key: value for key, value in settings.items() if key not in ('type', 'pipeline', 'lazy_init')}
    try:
        return DATASETS.build(dict(given, type=kind, pipeline=[], lazy_init=True))
    except TypeError:
        if _same(kind.__init__, CocoDataset.__init__):
            raise
        return None  # it has other settings


def check_class_names(settings: Mapping, where: str) -> None:
    """Check the class names in a dataset's settings.

    Args:
        settings: of the dataset.
        where: the place in the config, for messages.

    Raises:
        SettingError: for a text that does not name a file: mmdet takes its letters, and every part of it, as names; for
            anything else that is not a list of different names; and for the ``CLASSES`` of mmdet 2, which mmdet 3
            ignores.
    """
    metainfo = settings.get('metainfo') or {}
    if not isinstance(metainfo, Mapping):
        raise SettingError(f'{where}.metainfo is {metainfo!r}; it must be a dict, such as dict(classes=("cat", "dog"))')
    if 'CLASSES' in metainfo and 'classes' not in metainfo:
        raise SettingError(f'{where}.metainfo.CLASSES has no effect in MMDetection 3: write classes=(...)')
    classes = metainfo.get('classes', getattr(dataset_class(settings), 'METAINFO', {}).get('classes'))
    name = f'{where}.metainfo.classes'
    if isinstance(classes, str):
        if osp.isfile(classes) or '://' in classes:
            return
        raise SettingError(f'{name} is the text {classes!r}, of which MMDetection would take every part for a name, '
                           f'and no file of that name exists: write ({classes!r}, ), with a comma')
    if classes is None:
        return
    if not isinstance(classes, Sequence) or not classes:
        raise SettingError(f'{name} is {classes!r}; it must be a list of names, such as ("cat", "dog")')
    wrong = [value for value in classes if not isinstance(value, str)]
    if wrong:
        raise SettingError(f'{name} has {wrong[0]!r}; names of classes are text, as in the file: {str(wrong[0])!r}')
    twice = [value for value in classes if list(classes).count(value) > 1]
    if twice:
        raise SettingError(f'{name} has {twice[0]!r} twice; each class needs a name of its own')


def keep(dataset: CocoDataset, content: dict[str, Any], objects: Objects, masks: Optional[str] = None) -> Kept:
    """Count what a dataset keeps of its file.

    Args:
        dataset: of :func:`build_unread`.
        content: of its file.
        objects: of ``content``.
        masks: see :func:`~swin_pos_det.data.objects.learned`.
    """
    classes = dataset.metainfo.get('classes')
    kind = type(dataset)
    filters = {} if dataset.test_mode or dataset.filter_cfg is None else dataset.filter_cfg
    images, image_tally = used_images(objects, classes, filters.get('min_size', 0),
                                      filters.get('filter_empty_gt', False), dataset._indices)
    kept, tally = learned(objects, classes, masks, images)
    own = [name for name in ('parse_data_info', 'filter_data')
           if not _same(getattr(kind, name), getattr(CocoDataset, name))]
    if not own:
        per_class = objects.per_class(kept)
        per_class = {name: per_class[name] for name in objects.names if not classes or name in classes}
        return Kept(tally, image_tally, per_class, np.flatnonzero(images), loaded(objects, classes)[0])
    return _keep_by_own_rules(dataset, content, objects, tally, image_tally)


def _keep_by_own_rules(dataset: CocoDataset, content: dict[str, Any], objects: Objects, tally: Tally,
                       image_tally: Tally) -> Kept:
    """Run the methods of the class on the content, as ``load_data_list`` and ``full_init`` would."""
    classes = dataset.metainfo.get('classes')
    chosen = [category for category in content['categories'] if not classes or category['name'] in classes]
    dataset.cat_ids = [category['id'] for category in chosen]
    dataset.cat2label = {cat_id: label for label, cat_id in enumerate(dataset.cat_ids)}
    dataset.cat_img_map = {cat_id: [] for cat_id in dataset.cat_ids}
    of_image: dict[Any, list[dict]] = {}
    for item in content.get('annotations') or []:
        of_image.setdefault(item['image_id'], []).append(item)
        dataset.cat_img_map.setdefault(item['category_id'], []).append(item['image_id'])
    dataset.data_list = [dataset.parse_data_info(dict(raw_img_info=dict(image, img_id=image['id']),
                                                      raw_ann_info=of_image.get(image['id'], [])))
                         for image in content['images']]
    dataset.data_list = dataset.filter_data()
    if dataset._indices is not None:
        dataset.data_list = dataset._get_unserialized_subset(dataset._indices)
    labels = [instance['bbox_label'] for info in dataset.data_list for instance in info['instances']
              if not instance['ignore_flag']]
    counts = np.bincount(np.array(labels, int), minlength=len(chosen)).tolist()
    row_of = {image['id']: row for row, image in enumerate(content['images'])}
    rows = np.array([row_of[info['img_id']] for info in dataset.data_list], int)
    name = type(dataset).__name__
    return Kept(_corrected(tally, len(labels), name), _corrected(image_tally, len(rows), name),
                dict(zip((category['name'] for category in chosen), counts)), rows, None)


def _corrected(tally: Tally, left: int, name: str) -> Tally:
    """Correct the counts of mmdet's rules by the rules of a class; use only the latter if they keep more."""
    reason = f'by rules of {name}'
    if left > tally.left:
        return Tally(tally.what, tally.total, {reason: tally.total - left} if tally.total > left else {})
    more = {reason: tally.left - left} if tally.left > left else {}
    return Tally(tally.what, tally.total, {**tally.reasons, **more})


def _same(one: Any, other: Any) -> bool:
    return getattr(one, '__func__', one) is getattr(other, '__func__', other)
