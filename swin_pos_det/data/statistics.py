"""Report all faults of a COCO annotation file at once, and count the objects of its classes by size."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from ..errors import UserError
from .annotation_file import FilePath, check_annotations, check_encoding, check_masks
from .images import check_files, missing_files, size_faults
from .objects import Objects, evaluated, learned, loaded, look_of_boxes, used_images
from .repair import is_integer

# Areas in pixels at which COCO's objects become medium and large.
_MEDIUM, _LARGE = 32**2, 96**2
_MAX_NAMES = 5


@dataclass(frozen=True)
class ClassCounts:
    """Counts of the objects of one class.

    Attributes:
        name: of the class.
        images: that have one.
        objects: all.
        learned: those that a training learns from.
        small, medium, large: of those, with an area below 32**2, below 96**2, and above, in pixels.
        side: median of the square root of width times height of those, in pixels; NaN if there are none.
    """
    name: str
    images: int
    objects: int
    learned: int
    small: int
    medium: int
    large: int
    side: float


@dataclass
class Survey:
    """The findings of :func:`survey`.

    Attributes:
        faults: one line for each.
        notes: one line for each remark that is not a fault.
        look: see :func:`~swin_pos_det.data.objects.look_of_boxes`.
        classes: counts by class; empty if the file is too broken to count.
    """
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    look: Optional[str] = None
    classes: list[ClassCounts] = field(default_factory=list)


def survey(content: Any, path: FilePath, folder: Optional[str] = None) -> Survey:
    """Make all checks of an annotation file that need no config, and continue after failures.

    Args:
        content: of the file.
        path: the file, for messages.
        folder: of the images. None: they are not checked.
    """
    found = Survey()
    _collect(found.faults, check_encoding, path)
    if not _collect(found.faults, check_annotations, content, path, evaluated=False):
        return found
    _collect(found.faults, check_annotations, content, path)
    _check_ids(found, content)
    objects = Objects(content)
    masks = 'bitmap' if any(objects.segmentation) else None
    kept, tally = learned(objects, masks=masks)
    _, matched = evaluated(objects)
    if masks is not None:
        _collect(found.faults, check_masks, content, path, kept=loaded(objects)[0])
    for what, counted in (('trained on', tally), ('evaluated', matched)):
        lost = set(counted.reasons) - {'crowd'}
        if counted.dropped:
            (found.faults if lost or not counted.left else found.notes).append(f'when it is {what}: {counted}')
    found.look = look_of_boxes(objects)
    _note(found, objects, content)
    found.classes = count_classes(objects, kept)
    if folder is not None:
        _check_images(found, content['images'], folder, path)
    return found


def count_classes(objects: Objects, kept: np.ndarray) -> list[ClassCounts]:
    """Count by class, in the order of the file.

    Args:
        objects: of the file.
        kept: (N,) booleans, those that are learned.
    """
    sides = np.sqrt(np.prod(np.maximum(objects.box[:, 2:], 0), axis=1))
    counts = []
    for row, name in enumerate(objects.names):
        of_class = objects.category == row
        area = objects.area[of_class & kept]
        small, large = np.count_nonzero(area < _MEDIUM), np.count_nonzero(area >= _LARGE)
        side = float(np.median(sides[of_class & kept])) if len(area) else float('nan')
        images = np.unique(objects.image[of_class & (objects.image >= 0)])
        counts.append(ClassCounts(name, len(images), np.count_nonzero(of_class), len(area), small,
                                  len(area) - small - large, large, side))
    return counts


def _collect(faults: list[str], check: Callable, *args: Any, **kwargs: Any) -> bool:
    """Run a check; if it fails, add its line to the faults. Return whether it passes."""
    try:
        check(*args, **kwargs)
    except UserError as error:
        faults.append(str(error))
        return False
    return True


def _check_ids(found: Survey, content: dict[str, Any]) -> None:
    """Report ids that pycocotools or faster-coco-eval cannot match; ``SwinPosCocoMetric`` numbers them itself."""
    wrong = [item['id'] for item in content['annotations'] if not is_integer(item['id']) or item['id'] < 1]
    if wrong:
        found.faults.append(f'{len(wrong)} ids of annotations are no integers above 0, such as {wrong[0]!r}: '
                            'CocoMetric counts what matches them as missed')
    for name in ('images', 'categories'):
        wrong = [item['id'] for item in content[name] if not is_integer(item['id'])]
        if wrong:
            found.faults.append(f'{len(wrong)} ids of {name} are no integers, such as {wrong[0]!r}')


def _note(found: Survey, objects: Objects, content: dict[str, Any]) -> None:
    _, images = used_images(objects, filter_empty=True)
    if images.dropped:
        found.notes.append(f'with filter_cfg=dict(filter_empty_gt=True): {images}')
    empty = [name for row, name in enumerate(objects.names) if not np.any(objects.category == row)]
    if empty:
        more = ', ...' if len(empty) > _MAX_NAMES else ''
        found.notes.append(f'{len(empty)} of {len(objects.names)} classes have no object: '
                           f'{", ".join(empty[:_MAX_NAMES])}{more}')
    ids = [category['id'] for category in content['categories']]
    if all(map(is_integer, ids)) and ids != sorted(ids):
        found.notes.append('categories are not in the order of their ids; MMDetection numbers classes as they stand')


def _check_images(found: Survey, images: list[dict[str, Any]], folder: str, path: FilePath) -> None:
    names = [image['file_name'] for image in images]
    missing = set()
    if not _collect(found.faults, check_files, folder, names, str(path)):
        missing = set(missing_files(folder, names))
    faults = size_faults(folder, [image for image in images if image['file_name'] not in missing])
    if faults:
        first, fault = next(iter(faults.items()))
        found.faults.append(f'{len(faults)} of {len(images)} images are not as the file says: {first} {fault}')
