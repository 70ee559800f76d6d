"""MMDetection's ``CocoMetric`` with a choice of who computes the AP."""
from __future__ import annotations

from typing import Any
from unittest import mock

from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS

from ..errors import SettingError
from .evaluators import evaluator_class


@METRICS.register_module()
class SwinPosCocoMetric(CocoMetric):
    """``CocoMetric`` whose AP and AR may come from faster-coco-eval: the same numbers, sooner.

    Everything else (arguments, formatting of results, names of metrics) is mmdet's.

    Args:
        *args, **kwargs: what ``CocoMetric`` takes.
        evaluator: ``'pycocotools'`` or ``'faster'``.

    Raises:
        ValueError: if there is no such evaluator, or ``use_mp_eval`` asks for mmdet's multi-process one as well.
        ImportError: if faster-coco-eval is asked for and not installed.
    """

    def __init__(self, *args: Any, evaluator: str = 'pycocotools', **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evaluator = evaluator
        self._evaluator_class = evaluator_class(evaluator)
        if self.use_mp_eval and evaluator != 'pycocotools':
            raise SettingError(f"use_mp_eval=True evaluates with pycocotools in several processes, which evaluator="
                               f'{evaluator!r} contradicts: set one of them')

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The metrics of all results; see ``CocoMetric.compute_metrics``."""
        # CocoMetric looks the class up in its module; there is no other place to hand it one.
        with mock.patch.object(coco_metric, 'COCOeval', self._evaluator_class):
            return super().compute_metrics(results)
