"""COCO evaluation: mmdet's metric with a choice of evaluator."""
from .coco_metric import SwinPosCocoMetric
from .evaluators import EVALUATORS, evaluator_class

__all__ = ['EVALUATORS', 'SwinPosCocoMetric', 'evaluator_class']
