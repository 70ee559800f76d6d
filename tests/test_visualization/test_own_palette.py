"""A palette colours the classes that it was made for, and no others."""
from __future__ import annotations

import numpy as np
import pytest
from mmdet.datasets import CocoDataset, VOCDataset

from swin_pos_det.data.digits.dataset import DigitsOnPhotosDataset
from swin_pos_det.visualization import class_palette
from swin_pos_det.visualization.visualizer import own_palette

COCO = CocoDataset.METAINFO


@pytest.mark.parametrize('dataset', [CocoDataset, VOCDataset, DigitsOnPhotosDataset])
def test_a_data_set_keeps_its_palette(dataset):
    assert own_palette(dataset.METAINFO) == dataset.METAINFO['palette']
    assert own_palette(dict(dataset.METAINFO, classes=list(dataset.METAINFO['classes']))) == dataset.METAINFO['palette']


@pytest.mark.parametrize('meta', [dict(classes=('cat', 'dog'), palette=[(1, 2, 3), (200, 2, 3)]), dict(palette='coco'),
                                  dict(classes=('a', ), palette='random'), dict(classes=('a', )),
                                  dict(palette=COCO['palette'])])
def test_palettes_of_users_and_names_stay(meta):
    assert own_palette(meta) == meta.get('palette')


@pytest.mark.parametrize('classes', [('cat', 'dog'), COCO['classes'][:2]])
def test_two_classes_of_ones_own_differ(classes):
    meta = dict(COCO, classes=classes)
    assert own_palette(meta) is None
    first, second = (np.array(color) for color in class_palette(2, own_palette(meta)))
    assert np.abs(first - second).max() > 150
    assert first.argmax() != second.argmax(), 'the two differ in hue'
