"""The two implementations of COCO's evaluation, by name: pycocotools, and a faster one with equal results."""
from __future__ import annotations

from ..choices import EVALUATORS
from ..errors import MissingPackageError, SettingError


def evaluator_class(name: str) -> type:
    """Return the ``COCOeval`` class of an implementation.

    Both take ``(ground truth, detections, 'bbox' or 'segm')``, the first two as pycocotools' ``COCO``, and have
    ``params``, ``evaluate()``, ``accumulate()``, ``summarize()``, ``eval`` and ``stats``. Only pycocotools' fills
    ``evalImgs`` and can change ``params`` between ``evaluate`` and ``accumulate``.

    Args:
        name: ``'pycocotools'``, or ``'faster'`` for the C++ of faster-coco-eval.

    Raises:
        ValueError: if it is neither.
        ImportError: if faster-coco-eval is requested and not installed.
    """
    if name not in EVALUATORS:
        raise SettingError(f'evaluator must be one of {EVALUATORS}, got {name!r}')
    if name == 'pycocotools':
        from pycocotools.cocoeval import COCOeval
        return COCOeval
    try:
        from .faster_cocoeval import FasterCOCOeval
    except ImportError as error:
        raise MissingPackageError(f"evaluator='faster' needs the package faster-coco-eval ({error}): "
                                  'pip install faster-coco-eval') from error
    return FasterCOCOeval
