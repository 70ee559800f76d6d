"""COCO evaluation: mmdet's metric with a choice of evaluator."""
from .coco_metric import SwinPosCocoMetric
from .digits_metric import DigitsOnPhotosMetric
from .evaluators import EVALUATORS, evaluator_class

__all__ = ['EVALUATORS', 'DigitsOnPhotosMetric', 'SwinPosCocoMetric', 'evaluator_class']
