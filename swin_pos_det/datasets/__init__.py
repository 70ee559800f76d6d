"""The embedded default data set: handwritten digits on photographs."""
from __future__ import annotations

from .digits_dataset import DigitsOnPhotosDataset, DigitsOnPhotosMetric
from .digits_on_photos import digits_root, make_digits_on_photos

__all__ = ['DigitsOnPhotosDataset', 'DigitsOnPhotosMetric', 'digits_root', 'make_digits_on_photos']
