"""Inference with a trained detector: build it, run it on arrays or files, write its detections."""
from .files import PredictionReport, predict_files
from .images import ImageError
from .inference import build_detector, init_detector, predict
from .inputs import check_inputs, describe_ignored, find_inputs
from .slicing import Slicing

__all__ = [
    'ImageError', 'PredictionReport', 'Slicing', 'build_detector', 'check_inputs', 'describe_ignored', 'find_inputs',
    'init_detector', 'predict', 'predict_files'
]
