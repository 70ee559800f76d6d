"""Settings that must fit each other, the data and the machine."""
from __future__ import annotations

import contextlib
from pathlib import Path

import mmdet
import pytest
from mmdet.registry import OPTIMIZERS
from mmengine.config import Config
from torch.optim import SGD

from swin_pos_det.cli.config_checks import check_config
from swin_pos_det.cli.metric_checks import check_followed_metrics
from swin_pos_det.cli.setting_checks import check_launcher, check_necks, check_num_classes, check_optimizer
from swin_pos_det.errors import SettingError


@pytest.mark.parametrize(('launcher', 'missing', 'command'), [
    ('pytorch', 'MASTER_ADDR', 'bash tools/dist_train.sh'), ('slurm', 'SLURM_NODELIST', 'bash tools/slurm_train.sh'),
    ('mpi', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR=127.0.0.1 mpirun')])
def test_a_launcher_that_has_not_launched(monkeypatch, launcher, missing, command):
    names = dict(pytorch=['RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'],
                 slurm=['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'],
                 mpi=['OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR'])[launcher]
    for name in names:
        monkeypatch.setenv(name, '0')
    check_launcher(launcher)
    check_launcher('none')
    monkeypatch.delenv(missing)
    with pytest.raises(SettingError, match=f'--launcher {launcher} .* {missing} is not set; start .* with: {command}'):
        check_launcher(launcher)


def test_an_optimizer_that_is_none():
    check_optimizer(Config())
    check_optimizer(Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW')))))
    with pytest.raises(SettingError, match=r"no optimizer called 'AdamX' \(did you mean 'Adam"):
        check_optimizer(Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamX')))))
    OPTIMIZERS.register_module(name='AdamX', module=SGD)
    try:
        check_optimizer(Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamX')))))
    finally:
        del OPTIMIZERS.module_dict['AdamX']


@pytest.mark.parametrize(('model', 'where'), [
    (dict(bbox_head=dict(num_classes=1)), r'model\.bbox_head'),
    (dict(bbox_head=dict(num_classes=80)), r'model\.bbox_head'),
    (dict(roi_head=dict(bbox_head=[dict(num_classes=2), dict(num_classes=3)])), r'model\.roi_head\.bbox_head'),
    (dict(roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=80))), r'model\.roi_head\.mask_head'),
    (dict(module=dict(bbox_head=dict(num_classes=1))), r'model\.module\.bbox_head')])
def test_heads_for_other_classes(model, where):
    cfg = Config(dict(model=model, train_dataloader=dict(dataset=dict(
        type='RepeatDataset', dataset=dict(type='CocoDataset', ann_file='a.json',
                                           metainfo=dict(classes=('cat', 'dog')))))))
    check_num_classes(cfg, ['val'])
    with pytest.raises(SettingError, match=rf'^{where}.num_classes is \d+, but .* has 2 classes \(cat, dog\): set'):
        check_num_classes(cfg, ['train', 'val'])
    cfg.train_dataloader.dataset.dataset.type = 'CocoPanopticDataset'
    check_num_classes(cfg, ['train'])


@pytest.mark.slow
def test_configs_of_mmdet_pass():
    """Every tenth that can be read here: some need other packages."""
    found = 0
    paths = sorted(path for path in (Path(mmdet.__file__).parent / '.mim/configs').rglob('*.py')
                   if '_base_' not in path.parts)
    for path in paths[::10]:
        with contextlib.suppress(ImportError, FileNotFoundError):
            cfg = Config.fromfile(path)
            found += 1
            check_optimizer(cfg)
            check_num_classes(cfg, ['train', 'val', 'test'])
            check_necks(cfg)
            check_config(cfg)
            check_followed_metrics(cfg)
    assert found > 70


def test_heads_of_the_right_number():
    text = Config(dict(train_dataloader=dict(dataset=dict(type='CocoDataset', ann_file='a.json'))))
    for model in (dict(language_model=dict(), bbox_head=dict(num_classes=5)), dict(bbox_head=dict(num_classes=None)),
                  dict(roi_head=dict(mask_head=dict(class_agnostic=True, num_classes=1)))):
        text.model = model
        check_num_classes(text, ['train'])
    cfg = Config(dict(model=dict(rpn_head=dict(num_classes=1), roi_head=dict(bbox_head=dict(num_classes=80))),
                      train_dataloader=dict(dataset=dict(type='CocoDataset', ann_file='a.json'))))
    check_num_classes(cfg, ['train'])


def test_the_embedded_data_set_has_classes_too():
    cfg = Config(dict(model=dict(bbox_head=dict(num_classes=10)), train_dataloader=dict(dataset=dict(
        type='DigitsOnPhotosDataset', ann_file='mine.json'))))
    check_num_classes(cfg, ['train'])
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cat', 'dog'))
    with pytest.raises(SettingError, match='num_classes is 10, but the data set of mine.json has 2 classes'):
        check_num_classes(cfg, ['train'])


@pytest.mark.parametrize('around', [lambda model: model, lambda model: dict(type='SemiBase', detector=model),
                                    lambda model: dict(type='DetTTAModel', module=model)])
def test_a_neck_for_other_channels(around):
    """Read from the config: a FlexibleRunner has no model before it trains."""
    backbone = dict(type='SwinPosTransformer', embed_dims=8, out_indices=(1, 3))
    for right in (dict(), dict(backbone=backbone), dict(backbone=backbone, neck=dict(type='FPN', in_channels=[16, 64])),
                  dict(backbone=backbone, neck=[dict(type='FPN', in_channels=[16, 64]), dict(type='BFP')]),
                  dict(backbone=dict(type='SwinPosTransformerV2'), neck=dict(type='FPN', in_channels=[
                      96, 192, 384, 768])),
                  dict(backbone=backbone, neck=dict(type='ChannelMapper', in_channels=[64, 16])),  # in its own order
                  dict(backbone=dict(type='ResNet'), neck=dict(type='FPN', in_channels=[256]))):
        check_necks(Config(dict(model=around(right))))
    for neck in (dict(type='FPN', in_channels=[8, 16]), [dict(type='PAFPN', in_channels=[8, 16])]):
        with pytest.raises(SettingError, match=r'in_channels is \[8, 16\], but .* embed_dims=8 and out_indices='
                                               r'\(1, 3\) gives \[16, 64\]'):
            check_necks(Config(dict(model=around(dict(backbone=backbone, neck=neck)))))
