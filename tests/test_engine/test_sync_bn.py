"""SyncBN becomes BN where processes have no GPU."""
from __future__ import annotations

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config

from swin_pos_det.engine import cli
from swin_pos_det.engine.sync_bn import use_plain_batch_norm

CONFIG = dict(
    launcher='pytorch',
    model=dict(
        type='ConvFCBBoxHead', num_shared_convs=1, num_shared_fcs=1, in_channels=4, conv_out_channels=4,
        fc_out_channels=4, roi_feat_size=1, num_classes=2, norm_cfg=dict(type='SyncBN', requires_grad=True)),
    heads=[dict(norm_cfg=dict(type='SyncBN'))])


def test_only_the_type_changes_and_only_in_the_model():
    cfg = Config(CONFIG)
    before = MODELS.build(cfg.model).state_dict()
    assert use_plain_batch_norm(cfg) == 1
    after = MODELS.build(cfg.model).state_dict()
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert cfg.model.norm_cfg == dict(type='BN', requires_grad=True)
    assert cfg.heads[0].norm_cfg.type == 'SyncBN'
    assert use_plain_batch_norm(cfg) == 0


def test_lists_of_heads():
    cfg = Config(dict(model=dict(roi_head=dict(bbox_head=[dict(norm_cfg=dict(type='SyncBN')) for _ in range(3)]))))
    assert use_plain_batch_norm(cfg) == 3


@pytest.mark.parametrize(('accelerator', 'norm'), [(False, 'BN'), (True, 'SyncBN')])
def test_processes_without_gpus_get_it(monkeypatch, accelerator, norm):
    monkeypatch.setattr(cli, 'has_accelerator', lambda: accelerator)
    monkeypatch.setattr(cli, 'join_processes', lambda cfg: None)
    monkeypatch.setattr(cli.Runner, 'from_cfg', lambda cfg: cfg)
    assert cli.build_runner(Config(CONFIG)).model.norm_cfg.type == norm
