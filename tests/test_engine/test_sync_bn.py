"""SyncBN becomes BN where processes have no GPU."""
from __future__ import annotations

from mmdet.registry import MODELS
from mmengine.config import Config

from swin_pos_det.engine.strategies import run_on_cpu
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


def test_processes_without_gpus_get_it():
    cfg = Config(CONFIG)
    run_on_cpu(cfg)
    assert cfg.model.norm_cfg.type == 'BN'
