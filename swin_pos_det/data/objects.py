"""The objects of an annotation file that mmdet learns from, or pycocotools can match, and why others are dropped.

The rules and their order are those of mmdet's ``CocoDataset.parse_data_info`` and ``filter_data``, of its
``LoadAnnotations``, and of pycocotools' ``COCOeval``. All of them drop objects without a message.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Any, Optional

import numpy as np

# The least share of boxes for a finding.
_MOST = 0.5
_NEARLY_ALL = 0.95
# The findings of :func:`look_of_boxes`, in words.
LOOKS = {
    'shares': 'its boxes look like shares of the image, 0 to 1; COCO has pixels',
    'corners': 'its boxes look like x1, y1, x2, y2; COCO has x, y, width, height',
    'swapped': 'most of its boxes end beyond their image; with width and height of the images swapped they would fit',
    'beyond': 'most of its boxes end beyond their image; are its sizes those of the images?',
}


@dataclass(frozen=True)
class Tally:
    """The number of objects or images left, and why the others are dropped.

    Attributes:
        what: ``'objects'`` or ``'images'``.
        total: their number.
        reasons: numbers of dropped ones by reason, each counted for the first that applies.
    """
    what: str
    total: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Return how many objects are dropped."""
        return sum(self.reasons.values())

    @property
    def left(self) -> int:
        """Return how many objects are left."""
        return self.total - self.dropped

    def __str__(self) -> str:
        """Return a text such as ``'12 of 60 objects dropped: 8 of area 0, 4 crowd'``."""
        if not self.dropped:
            return f'{self.total} {self.what}'
        reasons = ', '.join(f'{number} {reason}' for reason, number in self.reasons.items())
        return f'{self.dropped} of {self.total} {self.what} dropped: {reasons}'


class Objects:
    """The N annotations of a file as columns, after :func:`~swin_pos_det.data.annotation_file.check_annotations`.

    Attributes:
        names: of the K categories, in the order of the file.
        sizes: (I, 2), height and width of the images in pixels.
        image: (N,), the row of each object's image; -1: the file has no such image.
        category: (N,), likewise.
        box: (N, 4), x, y, w, h in pixels.
        area: (N,), as the file has it.
        ignore, crowd: (N,) booleans.
        segmentation: N masks as the file has them, None without one.
    """

    def __init__(self, dataset: dict[str, Any]) -> None:
        images, items = dataset['images'], dataset.get('annotations') or []
        categories = dataset.get('categories') or []
        self.names: list[str] = [category['name'] for category in categories]
        self.sizes = np.array([(image['height'], image['width']) for image in images], float).reshape(-1, 2)
        self.image = _rows(images, (item['image_id'] for item in items), len(items))
        self.category = _rows(categories, (item['category_id'] for item in items), len(items))
        self.box = np.array([item['bbox'] for item in items], float).reshape(-1, 4)
        self.area = np.array([item['area'] for item in items], float)
        self.ignore = np.array([bool(item.get('ignore', False)) for item in items], bool)
        self.crowd = np.array([bool(item.get('iscrowd', False)) for item in items], bool)
        self.segmentation = [item.get('segmentation') for item in items]

    def __len__(self) -> int:
        return len(self.image)

    def of_classes(self, classes: Optional[Sequence[str]]) -> np.ndarray:
        """Return (N,) bool: the category is among the classes, or unknown to the file; None: any category."""
        chosen = np.array([not classes or name in classes for name in self.names] + [True])
        return chosen[self.category]

    def outside(self) -> np.ndarray:
        """Return (N,) bool: no part of the box is in the image."""
        height, width = self.sizes[self.image].T
        x, y, w, h = self.box.T
        inside_w = np.maximum(0, np.minimum(x + w, width) - np.maximum(x, 0))
        inside_h = np.maximum(0, np.minimum(y + h, height) - np.maximum(y, 0))
        return inside_w * inside_h == 0

    @cached_property
    def have_usable_masks(self) -> np.ndarray:
        """Return (N,) bool: ``LoadAnnotations`` keeps the mask; see :func:`_have_usable_masks`."""
        return _have_usable_masks(self.segmentation)

    @cached_property
    def have_run_lengths(self) -> np.ndarray:
        """Return (N,) bool: the mask is not a list of polygons."""
        return np.fromiter((isinstance(mask, dict) for mask in self.segmentation), bool, len(self))

    def per_class(self, kept: np.ndarray) -> dict[str, int]:
        """Return how many kept objects each category has."""
        counts = np.bincount(self.category[kept & (self.category >= 0)], minlength=len(self.names))
        return dict(zip(self.names, counts.tolist()))


def learned(objects: Objects, classes: Optional[Sequence[str]] = None, masks: Optional[str] = None,
            images: Optional[np.ndarray] = None) -> tuple[np.ndarray, Tally]:
    """Return the objects that a training with ``CocoDataset`` learns from.

    Args:
        objects: of the file.
        classes: of the dataset; objects of other categories are left out and not counted. None: all.
        masks: ``'bitmap'`` or ``'polygon'`` if ``LoadAnnotations`` reads masks as such, else None.
        images: (I,) booleans, those that :func:`used_images` keeps. None: all.

    Returns:
        (N,) booleans, and the numbers dropped by reason.
    """
    reasons = [*_not_loaded(objects), ('crowd', objects.crowd)]
    if masks is not None:
        reasons.append(('without a polygon of 3 points or more', ~objects.have_usable_masks))
    if masks == 'polygon':
        reasons.append(('with run lengths, where poly2mask=False takes polygons', objects.have_run_lengths))
    if images is not None:
        reasons.append(('in images that are dropped', ~images[objects.image]))
    return _tally('objects', objects.of_classes(classes), reasons)


def loaded(objects: Objects, classes: Optional[Sequence[str]] = None) -> tuple[np.ndarray, Tally]:
    """Return the objects that ``CocoDataset`` gives to its pipeline; unlike :func:`learned`, with crowds.

    Returns:
        (N,) booleans, and the numbers dropped by reason.
    """
    return _tally('objects', objects.of_classes(classes), _not_loaded(objects))


def evaluated(objects: Objects, classes: Optional[Sequence[str]] = None) -> tuple[np.ndarray, Tally]:
    """Return the objects that results can be matched with in ``COCOeval``.

    Crowds, negative areas, and ids that the file does not have are ignored; boxes without width or height, or
    outside of their image, always count as missed.

    Args:
        objects: of the file.
        classes: that are evaluated; objects of other categories are not counted. None: all.

    Returns:
        (N,) booleans, and the numbers dropped by reason.
    """
    reasons = [*_unmatched(objects), *_impossible(objects), ('of negative area', objects.area < 0),
               ('crowd', objects.crowd)]
    return _tally('objects', objects.of_classes(classes), reasons)


def used_images(objects: Objects, classes: Optional[Sequence[str]] = None, min_size: float = 0,
                filter_empty: bool = False, indices: Any = None) -> tuple[np.ndarray, Tally]:
    """Return the images that ``CocoDataset`` keeps.

    Args:
        objects: of the file.
        classes: of the dataset. None: all.
        min_size, filter_empty: ``min_size`` and ``filter_empty_gt`` of its ``filter_cfg``.
        indices: the dataset's: a number of images from the start (or, negative, from the end), or their places.

    Returns:
        (I,) booleans, and the numbers dropped by reason.
    """
    everything = np.ones(len(objects.sizes), bool)
    reasons: list[tuple[str, np.ndarray]] = []
    if filter_empty:
        # mmdet checks all annotations of its classes, including dropped ones.
        known = objects.of_classes(classes) & (objects.category >= 0) & (objects.image >= 0)
        filled = np.zeros(len(objects.sizes), bool)
        filled[objects.image[known]] = True
        reasons.append(('without objects', ~filled))
    reasons.append((f'under {min_size} pixels wide or high', objects.sizes.min(1) < min_size))
    kept, tally = _tally('images', everything, reasons)
    if indices is None:
        return kept, tally
    rows = np.flatnonzero(kept)
    rows = rows[:indices] if isinstance(indices, int) and indices >= 0 else (
        rows[indices:] if isinstance(indices, int) else rows[np.asarray(indices, int)])
    chosen = np.zeros(len(kept), bool)
    chosen[rows] = True
    return chosen, Tally('images', tally.total, {**tally.reasons, **_nonzero('not among the indices',
                                                                             kept.sum() - chosen.sum())})


def look_of_boxes(objects: Objects) -> Optional[str]:
    """Say what the boxes look like if they are not x, y, w, h in pixels of their images; None if they may be.

    Returns:
        ``'shares'``: all are within 0..1. ``'corners'``: x1, y1, x2, y2. ``'swapped'``: they fit their images if
        width and height of these are swapped. ``'beyond'``: most end outside.
    """
    known = objects.image >= 0
    box, (height, width) = objects.box[known], objects.sizes[objects.image[known]].T
    x, y, w, h = box.T
    if not len(box):
        return None
    if np.all((box >= 0) & (box <= 1)) and np.all(objects.sizes > 2):
        return 'shares'
    beyond = (x + w > width + 1) | (y + h > height + 1)
    corners = (w >= x) & (h >= y)
    with np.errstate(over='ignore'):
        area, size = objects.area[known], (w - x) * (h - y)
    by_area = np.isclose(area, size, rtol=1e-3) & ~np.isclose(area, w * h, rtol=1e-3)
    if corners.mean() >= _NEARLY_ALL and (by_area.mean() >= _NEARLY_ALL or beyond.mean() > _MOST):
        return 'corners'
    if beyond.mean() <= _MOST:
        return None
    return 'swapped' if np.mean((x + w <= height + 1) & (y + h <= width + 1)) >= _NEARLY_ALL else 'beyond'


def _rows(items: Sequence[dict], ids: Iterable[Any], number: int) -> np.ndarray:
    rows = {item['id']: row for row, item in enumerate(items)}
    return np.fromiter(map(rows.get, ids, repeat(-1)), np.int64, number)


def _unmatched(objects: Objects) -> list[tuple[str, np.ndarray]]:
    return [('of images that the file does not have', objects.image < 0),
            ('of categories that the file does not have', objects.category < 0)]


def _impossible(objects: Objects) -> list[tuple[str, np.ndarray]]:
    _, _, w, h = objects.box.T
    return [('without width or height', (w <= 0) | (h <= 0)), ('outside of their image', objects.outside())]


def _not_loaded(objects: Objects) -> list[tuple[str, np.ndarray]]:
    _, _, w, h = objects.box.T
    return [*_unmatched(objects), ('marked ignore', objects.ignore), *_impossible(objects),
            ('of area 0', objects.area == 0), ('of negative area', objects.area < 0),
            ('under 1 pixel wide or high', (w < 1) | (h < 1))]


def _have_usable_masks(masks: Sequence[Any]) -> np.ndarray:
    """Return (N,) bool: ``LoadAnnotations`` keeps the mask: RLE, or a polygon of an even number >= 6 of values."""
    return np.fromiter((not isinstance(mask, list) or any(len(polygon) >= 6 and len(polygon) % 2 == 0
                                                          for polygon in mask if isinstance(polygon, list))
                        for mask in masks), bool, len(masks))


def _nonzero(reason: str, number: int) -> dict[str, int]:
    return {reason: int(number)} if number else {}


def _tally(what: str, asked: np.ndarray, reasons: Iterable[tuple[str, np.ndarray]]) -> tuple[np.ndarray, Tally]:
    left, counts = asked.copy(), {}
    for reason, applies in reasons:
        counts.update(_nonzero(reason, np.count_nonzero(left & applies)))
        left &= ~applies
    return left, Tally(what, int(asked.sum()), counts)
