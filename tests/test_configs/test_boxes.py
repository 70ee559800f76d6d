"""The configs of Faster R-CNN ask for no masks, and train as those of Mask R-CNN do."""
from __future__ import annotations

import re

import pytest
from mmengine.config import Config

from .test_configs import CONFIGS, FOLDER
from .tiny import _walk

BOXES = [name for name in CONFIGS if name.startswith('faster-rcnn')]


def test_sizes_and_schedules():
    found = {re.match(r'faster-rcnn_swin-pos-(\w+)-p4-w7_fpn_(.*)_?coco.py', name).groups() for name in BOXES}
    assert found == {(size, schedule) for size in 'tsb' for schedule in ('1x_', 'amp-ms-crop-3x_')} | {('nano', '')}


@pytest.mark.parametrize('name', BOXES)
def test_no_setting_asks_for_masks(name):
    cfg = Config.fromfile(FOLDER / name)
    assert not any(node.get('with_mask') for node in _walk(cfg._cfg_dict.to_dict()))
    assert 'mask_head' not in cfg.model.roi_head and 'mask_roi_extractor' not in cfg.model.roi_head
    assert cfg.val_evaluator.metric == cfg.test_evaluator.metric == 'bbox'
    assert cfg.train_dataloader.dataset.type == 'CocoDataset'


@pytest.mark.parametrize('name', [name for name in BOXES if 'nano' not in name])
def test_the_recipe_is_that_of_mask_rcnn(name):
    ours, theirs = (Config.fromfile(FOLDER / each).to_dict() for each in (name, name.replace('faster', 'mask')))
    for node in [*_walk(ours), *_walk(theirs)]:
        for key in ('with_mask', 'poly2mask', '_scope_'):
            node.pop(key, None)
    for key in ('train_cfg', 'param_scheduler', 'auto_scale_lr', 'train_dataloader', 'val_dataloader'):
        assert ours[key] == theirs[key], key
    given = ours['model']['backbone']
    assert given == {key: theirs['model']['backbone'][key] for key in given}, 'the rest are defaults'
    assert ours['optim_wrapper']['optimizer'] == theirs['optim_wrapper']['optimizer']
    assert ours['optim_wrapper']['type'] == theirs['optim_wrapper']['type']


@pytest.mark.parametrize('name', CONFIGS)
def test_pretrained_weights_have_a_public_address(name):
    weights = [node['checkpoint'] for node in _walk(Config.fromfile(FOLDER / name)._cfg_dict.to_dict())
               if node.get('type') == 'Pretrained']
    assert all(address.startswith('https://') for address in weights)
    assert weights or 'nano' in name
