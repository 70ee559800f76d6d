"""Data: COCO folders and annotation files, and the embedded data set."""
from __future__ import annotations

from .compact_masks import CompactMasks
from .digits.dataset import DigitsOnPhotosDataset
from .digits.on_photos import digits_root, make_digits_on_photos
from .digits.scans import DigitScansDataset
from .digits.semantic import DigitsOnPhotosSegDataset, LoadDigitsSegMap
from .image_loading import SwinPosLoadImageFromFile
from .loading import LoadCompactAnnotations

__all__ = ['CompactMasks', 'DigitScansDataset', 'DigitsOnPhotosDataset', 'DigitsOnPhotosSegDataset',
           'LoadCompactAnnotations', 'LoadDigitsSegMap', 'SwinPosLoadImageFromFile', 'digits_root',
           'make_digits_on_photos']
