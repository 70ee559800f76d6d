"""MMDetection's dataset class for the embedded data set, which makes its files itself."""
from __future__ import annotations

import os
import os.path as osp

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from ...errors import MissingFileError, SettingError
from .on_photos import CLASSES, MANIFEST, digits_root, make_digits_on_photos

_ANN_FILES = ('annotations/train.json', 'annotations/val.json')

# Ten colours that are distinct on a photograph.
PALETTE = [(230, 60, 60), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240),
           (240, 50, 230), (170, 255, 195), (128, 128, 0)]


@DATASETS.register_module()
class DigitsOnPhotosDataset(CocoDataset):
    """Handwritten digits on photographs, made on first use: ten classes, boxes, masks, some crowds and empty images.

    It is an ordinary COCO folder (see :mod:`swin_pos_det.data.digits.on_photos`), made when its annotations are
    first read, by one of the processes that need it. In test mode its metainfo has ``ann_file``, the path of the
    annotations, for :class:`~swin_pos_det.evaluation.DigitsOnPhotosMetric`.

    Args:
        data_root: the folder. Empty or None: one in the user's cache folder, or below ``$SWIN_POS_DET_DATA``.
        num_train, num_val: images per split, at least 1. None: all in ``data_root``; 400 and 100 if it is made.
        seed: at least 0. None: likewise; 0 if it is made.
        **kwargs: arguments of ``CocoDataset``; ``ann_file`` is ``'annotations/train.json'`` or
            ``'annotations/val.json'`` and ``data_prefix`` ``dict(img='train/')`` or ``dict(img='val/')``.

    Raises:
        SettingError: see :meth:`check_settings`.
        TypeError, ValueError, OSError: see :func:`~swin_pos_det.data.make_digits_on_photos`.
    """
    METAINFO = dict(classes=CLASSES, palette=PALETTE)
    READS_AS_COCO = True  # see data/coco_datasets.py

    def __init__(self, *args, data_root: str | None = None, num_train: int | None = None, num_val: int | None = None,
                 seed: int | None = None, **kwargs) -> None:
        self._recipe = dict(num_train=num_train, num_val=num_val, seed=seed)
        self._given_root = data_root
        super().__init__(*args, data_root=str(digits_root(data_root, **self._recipe)), **kwargs)
        if self.test_mode:  # of a training set, this machine's path would be saved in the checkpoints
            self._metainfo['ann_file'] = self.ann_file

    def check_settings(self) -> None:
        """Check that the settings are of this data set, before it is made in a folder meant for another.

        Raises:
            SettingError: for classes other than the digits, and for another annotation file, or a folder with other
                files, where the data set has not been made.
        """
        is_made = osp.isfile(osp.join(self.data_root, MANIFEST))
        ann_file = osp.relpath(self.ann_file, self.data_root)
        classes = self.metainfo['classes']
        if not set(classes) <= set(CLASSES):
            wrong = f'metainfo.classes={tuple(classes)}'
        elif not is_made and ann_file not in _ANN_FILES:
            wrong = f'ann_file={ann_file!r}'
        elif not is_made and osp.isdir(self.data_root) and os.listdir(self.data_root):
            wrong = f'data_root={self.data_root!r}, which holds other files'
        else:
            return
        raise SettingError(f'DigitsOnPhotosDataset makes its own images of digits, but has {wrong}; nothing was made. '
                           "For your own data set type='CocoDataset' in the dataset of each data loader, ann_file, "
                           'data_prefix and metainfo=dict(classes=(...)); num_classes of the heads; and val_evaluator='
                           "test_evaluator=dict(type='CocoMetric', ann_file=...)")

    def load_data_list(self) -> list[dict]:
        """Make the data set if necessary, then read its annotations: one dict per image, as ``CocoDataset`` gives."""
        self.check_settings()
        make_digits_on_photos(self._given_root, **self._recipe)
        if not osp.isfile(self.ann_file):
            raise MissingFileError(f'{self.ann_file} does not exist; the data set at {self.data_root} has '
                                   "ann_file='annotations/train.json' and 'annotations/val.json'")
        return super().load_data_list()
