"""Data: COCO folders and annotation files, and the embedded data set."""
from __future__ import annotations

from .digits.dataset import DigitsOnPhotosDataset
from .digits.on_photos import digits_root, make_digits_on_photos

__all__ = ['DigitsOnPhotosDataset', 'digits_root', 'make_digits_on_photos']
