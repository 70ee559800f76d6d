"""COCO evaluation: mmdet's metric with a choice of evaluator."""
from .coco_metric import FasterCocoMetric
from .evaluators import EVALUATORS, evaluator_class

__all__ = ['EVALUATORS', 'FasterCocoMetric', 'evaluator_class']
