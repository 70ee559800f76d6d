"""The embedded data for semantic segmentation with mmsegmentation: which pixels show a digit.

mmsegmentation's data sets are MMEngine's, so these parts need no mmsegmentation; only the pipelines in the configs do.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.dataset import BaseDataset
from pycocotools import mask as coco_mask

from .on_photos import make_digits_on_photos
from .sources import check_split


@DATASETS.register_module()
class DigitsOnPhotosSegDataset(BaseDataset):
    """Handwritten digits on photographs for semantic segmentation, with two classes: photograph and digit.

    The images are those of :class:`~swin_pos_det.data.DigitsOnPhotosDataset`, made on first use. The pipeline loads
    the labels with :class:`LoadDigitsSegMap`.

    Args:
        split: ``'train'`` or ``'val'``.
        data_root: the folder. Empty or None: one in the user's cache folder, or below ``$SWIN_POS_DET_DATA``.
        num_train, num_val, seed: see :func:`~swin_pos_det.data.make_digits_on_photos`.
        **kwargs: those of ``BaseDataset``, such as ``pipeline`` and ``test_mode``.

    Raises:
        SettingError: for another split, or a folder that was made with other numbers.
        MissingPackageError: if a package that ships digits or photographs is not installed.
    """
    METAINFO = dict(classes=('photo', 'digit'), palette=[(0, 0, 0), (255, 225, 25)])

    def __init__(self, split: str, data_root: str | None = None, num_train: int | None = None,
                 num_val: int | None = None, seed: int | None = None, **kwargs: Any) -> None:
        check_split(split)
        self.split = split
        self._recipe = dict(data_root=data_root, num_train=num_train, num_val=num_val, seed=seed)
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Make the data if necessary; return a dict per image, with its path, its size and its digits' masks."""
        root = make_digits_on_photos(**self._recipe)
        return read_masks(root, self.split)


def read_masks(root: Path, split: str) -> list[dict]:
    """Read a split of the embedded data.

    Returns:
        For each image ``img_path``, ``height`` and ``width`` (px), ``masks``, compressed RLE of what is visible of
        each digit or heap of digits, and the keys that mmsegmentation's transforms expect.
    """
    content = json.loads((root / 'annotations' / f'{split}.json').read_text(encoding='utf-8'))
    masks: dict[int, list] = {image['id']: [] for image in content['images']}
    for item in content['annotations']:
        masks[item['image_id']].append(item['segmentation'])
    return [dict(img_path=str(root / split / image['file_name']), height=image['height'], width=image['width'],
                 masks=masks[image['id']], seg_fields=[], reduce_zero_label=False, label_map=None)
            for image in content['images']]


@TRANSFORMS.register_module()
class LoadDigitsSegMap(BaseTransform):
    """Paint the masks of :class:`DigitsOnPhotosSegDataset` into a map of labels, at the image's own size.

    Adds ``gt_seg_map``, (H, W) uint8: 1 where there is a digit, else 0. In a test pipeline it belongs after
    ``Resize``, since predictions are compared at the image's own size.
    """

    def transform(self, results: dict) -> dict:
        """Add the map to an item."""
        masks = results['masks']
        results['gt_seg_map'] = (coco_mask.decode(coco_mask.merge(masks)) if masks else
                                 np.zeros((results['height'], results['width']), np.uint8))
        results['seg_fields'].append('gt_seg_map')
        return results
