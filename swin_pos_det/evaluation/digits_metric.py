"""The metric of the embedded data set, which follows the dataset to its annotation file."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdet.registry import METRICS

from ..errors import SettingError
from .coco_metric import SwinPosCocoMetric


@METRICS.register_module()
class DigitsOnPhotosMetric(SwinPosCocoMetric):
    """``CocoMetric`` on the annotation file of the evaluated dataset, which may be in any folder.

    Without an annotation file ``CocoMetric`` would rebuild one from the samples, with boxes' areas for masks', and its
    AP by size would not be COCO's.

    Args:
        ann_file: another annotation file. None: the one that the dataset's metainfo names.
        metric: one or several of ``'bbox'``, ``'segm'``, ``'proposal'``, ``'proposal_fast'``.
        **kwargs: other arguments of ``CocoMetric``, and ``evaluator``, ``'pycocotools'`` or ``'faster'``.
    """

    def __init__(self, ann_file: str | None = None, metric: str | Sequence[str] = ('bbox', 'segm'), **kwargs) -> None:
        metric = metric if isinstance(metric, str) else list(metric)
        super().__init__(ann_file=ann_file, metric=metric, **kwargs)

    @property
    def dataset_meta(self) -> dict | None:
        """Return metainfo of the dataset that is evaluated; setting it opens the annotation file."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        if self._coco_api is None and isinstance(dataset_meta, Mapping):
            if 'ann_file' not in dataset_meta:
                raise SettingError('DigitsOnPhotosMetric needs a DigitsOnPhotosDataset with test_mode=True or '
                                   'ann_file=...; for other datasets use CocoMetric')
            self._open(dataset_meta['ann_file'])
        SwinPosCocoMetric.dataset_meta.fset(self, dataset_meta)
