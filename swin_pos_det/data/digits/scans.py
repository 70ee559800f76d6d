"""The embedded handwritten digits alone, for classification with mmpretrain.

mmpretrain's data sets are MMEngine's, so this one needs no mmpretrain; only the pipelines in the configs do.
"""
from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from .dataset import PALETTE
from .on_photos import CLASSES
from .sources import check_split, load_scans


@DATASETS.register_module()
class DigitScansDataset(BaseDataset):
    """Handwritten digits, one per image, for classification: 1,442 to train on and 355 to validate.

    Items have ``img``, (8, 8, 3) uint8 with white ink on black, and ``gt_label``, the digit.

    Args:
        split: ``'train'`` or ``'val'``.
        **kwargs: those of ``BaseDataset``, such as ``pipeline`` and ``test_mode``.

    Raises:
        SettingError: for another split.
        MissingPackageError: if scikit-learn, which ships the digits, is not installed.
    """
    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(self, split: str, **kwargs: Any) -> None:
        check_split(split)
        self.split = split
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Return a dict per scan, with ``img`` and ``gt_label``."""
        scans = load_scans(self.split)
        return [dict(img=np.repeat(image[..., None], 3, axis=2), ori_shape=image.shape, img_shape=image.shape,
                     gt_label=int(label)) for image, label in zip(scans.images, scans.labels)]
