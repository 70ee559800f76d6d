"""A trained detector on images: build it, run it on arrays or files, write what it finds."""
from .files import PredictionReport, find_inputs, predict_files
from .images import ImageError
from .inference import init_detector, predict

__all__ = ['ImageError', 'PredictionReport', 'find_inputs', 'init_detector', 'predict', 'predict_files']
