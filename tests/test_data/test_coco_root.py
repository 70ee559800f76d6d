"""COCO_ROOT: which paths of a config it moves, and what a missing folder says."""
from __future__ import annotations

import json

import pytest
from mmengine.config import Config, ConfigDict

from swin_pos_det.data.coco_root import CocoRootError, apply_coco_root, check_coco_root

SWIN_T = "_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py']"


@pytest.fixture(autouse=True)
def elsewhere(request, tmp_path, monkeypatch):
    """Unset COCO_ROOT and change to a directory without data/coco."""
    if 'coco_root' in request.fixturenames:
        request.getfixturevalue('coco_root')  # reads the variable, or skips
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cfg(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(SWIN_T)
    return Config.fromfile(path)


def make_coco(root, splits=('train', 'val')):
    (root / 'annotations').mkdir(parents=True)
    for split in splits:
        (root / f'{split}2017').mkdir()
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(dict(images=[])))
    return root


def test_every_coco_path_of_mmdets_config_moves(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(tmp_path / 'coco'))
    apply_coco_root(cfg)
    root = f'{tmp_path}/coco/'
    assert cfg.data_root == root
    for section in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert section.dataset.data_root == root
    for section in (cfg.val_evaluator, cfg.test_evaluator):
        assert section.ann_file == f'{root}annotations/instances_val2017.json'
    assert 'data/coco' not in cfg._cfg_dict.__repr__()


def test_nested_datasets_and_lists_of_metrics_move():
    cfg = ConfigDict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[
            dict(data_root='data/coco', ann_file='a.json'), dict(data_root='./data/coco/', ann_file='b.json')]))),
        val_evaluator=[dict(ann_file='data/coco/annotations/a.json'), dict(ann_file='data/coco_other/a.json')],
        test_dataloader=dict(dataset=dict(data_root='data/lvis_v1/')), work_dir='data/coco/runs')
    apply_coco_root(cfg, '/c')
    first, second = cfg.train_dataloader.dataset.dataset.datasets
    assert (first.data_root, second.data_root) == ('/c/', '/c/')
    assert [metric.ann_file for metric in cfg.val_evaluator] == ['/c/annotations/a.json', 'data/coco_other/a.json']
    assert cfg.test_dataloader.dataset.data_root == 'data/lvis_v1/'
    assert cfg.work_dir == 'data/coco/runs'


def test_nothing_moves_without_the_variable(cfg):
    before = cfg.pretty_text
    apply_coco_root(cfg)
    assert cfg.pretty_text == before


@pytest.mark.parametrize('where', ['COCO_ROOT', 'data/coco'])
def test_a_whole_folder_passes(cfg, tmp_path, monkeypatch, where):
    if where == 'COCO_ROOT':
        monkeypatch.setenv('COCO_ROOT', str(make_coco(tmp_path / 'coco')))
    else:
        make_coco(tmp_path / 'data/coco')
    apply_coco_root(cfg)
    check_coco_root(cfg, ['train', 'val', 'test'])


def test_evaluation_needs_val_only(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(make_coco(tmp_path / 'coco', splits=['val'])))
    apply_coco_root(cfg)
    check_coco_root(cfg, ['test'])
    with pytest.raises(CocoRootError) as error:
        check_coco_root(cfg, ['train', 'val'])
    assert f'{tmp_path}/coco lacks annotations/instances_train2017.json, train2017.' in str(error.value)


LAYOUT = ['annotations/instances_train2017.json', 'annotations/instances_val2017.json', 'train2017/', 'val2017/']


def test_a_wrong_folder_is_named_with_the_layout(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(tmp_path / 'nowhere'))
    apply_coco_root(cfg)
    with pytest.raises(CocoRootError) as error:
        check_coco_root(cfg)
    message = str(error.value)
    assert f'{tmp_path}/nowhere does not exist' in message
    assert f'COCO_ROOT (now {tmp_path}/nowhere)' in message
    assert all(name in message for name in LAYOUT)


def test_a_missing_default_folder_says_how_to_set_the_variable(cfg, tmp_path):
    with pytest.raises(CocoRootError) as error:
        check_coco_root(cfg)
    message = str(error.value)
    assert f'{tmp_path}/data/coco does not exist' in message
    assert 'Set the environment variable COCO_ROOT (not set, so data/coco/ is used)' in message
    assert all(name in message for name in LAYOUT)


def test_other_data_sets_are_not_checked(monkeypatch, tmp_path):
    monkeypatch.setenv('COCO_ROOT', str(tmp_path / 'nowhere'))
    cfg = ConfigDict(train_dataloader=dict(dataset=dict(data_root=None, ann_file='annotations/train.json')),
                     val_evaluator=dict(type='DigitsOnPhotosMetric'))
    apply_coco_root(cfg)
    check_coco_root(cfg)


def test_real_coco_folder(cfg, coco_root, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(coco_root))
    apply_coco_root(cfg)
    check_coco_root(cfg, ['train', 'val', 'test'])
