"""``--tensorboard``, ``--wandb``, ``--classwise``, ``--val-pictures`` and ``--early-stop`` of train.py."""
from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS

from swin_pos_det.cli.following import follow_training, name_best_metric
from swin_pos_det.errors import MissingPackageError, SettingError

COCO = dict(type='CocoMetric', metric=['bbox', 'segm'])


def followed(flags, evaluator=COCO, **parts):
    given = dict(dict(tensorboard=False, wandb=False, classwise=False, early_stop=None, val_pictures=None), **flags)
    cfg = Config(dict(val_evaluator=evaluator, **parts))
    follow_training(cfg, SimpleNamespace(**given))
    return cfg


def install(monkeypatch, *names):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object() if name in names else None)


def best(metric):
    return dict(default_hooks=dict(checkpoint=dict(save_best=metric)))


def test_no_flag_changes_nothing():
    assert followed({}).to_dict() == dict(val_evaluator=COCO)


@pytest.mark.parametrize('flag, backend', [('tensorboard', 'TensorboardVisBackend'), ('wandb', 'WandbVisBackend')])
def test_a_viewer_joins_those_of_the_config(monkeypatch, flag, backend):
    install(monkeypatch, flag)
    want = [dict(type='LocalVisBackend'), dict(type=backend)]
    assert followed({flag: True}).visualizer.vis_backends == want
    for present in (want[:1], want):
        cfg = followed({flag: True}, visualizer=dict(type='DetLocalVisualizer', vis_backends=present))
        assert cfg.visualizer == dict(type='DetLocalVisualizer', vis_backends=want), 'added once'


@pytest.mark.parametrize('flag', ['tensorboard', 'wandb'])
def test_a_missing_package_is_named(monkeypatch, flag):
    install(monkeypatch)
    with pytest.raises(MissingPackageError, match=f'--{flag} needs the package {flag}: pip install {flag}$'):
        followed({flag: True})


@pytest.mark.parametrize('parts, metric', [
    ({}, 'coco/segm_mAP'), (best('auto'), 'coco/segm_mAP'), (best('coco/bbox_mAP'), 'coco/bbox_mAP'),
    (best(['coco/segm_mAP_50', 'coco/bbox_mAP']), 'coco/segm_mAP_50')])
def test_early_stopping_follows_the_metric_of_the_best_checkpoint(parts, metric):
    cfg = followed(dict(early_stop=2), custom_hooks=[dict(type='EMAHook')], **parts)
    assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook', 'EarlyStoppingHook']
    hook = HOOKS.build(cfg.custom_hooks[1])
    assert isinstance(hook, EarlyStoppingHook) and hook.monitor == metric
    loop = SimpleNamespace(stop_training=False)
    runner = SimpleNamespace(train_loop=loop, logger=SimpleNamespace(info=print))
    stopped = []
    for value in (0.1, 0.101, 0.101, 0.1, 0.1):
        hook.after_val_epoch(runner, {metric: value})
        stopped.append(loop.stop_training)
    assert stopped == [False, False, False, True, True], 'a small gain counts; two evaluations without any do not'


def test_early_stopping_without_a_known_metric_is_refused():
    with pytest.raises(SettingError, match='--early-stop needs a metric to follow'):
        followed(dict(early_stop=2), evaluator=dict(type='LVISMetric'))


@pytest.mark.parametrize('evaluator', [COCO, [dict(type='DigitsOnPhotosMetric'), dict(type='mmdet.SwinPosCocoMetric')]])
def test_classwise_reaches_each_metric(evaluator):
    cfg = followed(dict(classwise=True), evaluator=evaluator)
    metrics = cfg.val_evaluator if isinstance(evaluator, list) else [cfg.val_evaluator]
    assert all(metric.classwise for metric in metrics)


ACCURACY = dict(type='Accuracy', topk=(1, 5))


@pytest.mark.parametrize('evaluator, want', [
    (COCO, 'coco/segm_mAP'),
    (dict(COCO, classwise=True), 'coco/segm_mAP'),
    (dict(COCO, metric='bbox', prefix='val'), 'val/bbox_mAP'),
    (dict(COCO, metric=['proposal', 'bbox']), 'coco/bbox_mAP'),
    (dict(COCO, metric_items=['mAP_50', 'mAP']), 'coco/segm_mAP'),
    (dict(COCO, metric_items=['mAP_75', 'mAP_50']), 'coco/segm_mAP_75'),
    (dict(type='CocoMetric'), 'coco/bbox_mAP'),
    (dict(type='DigitsOnPhotosMetric', metric=('bbox', 'segm')), 'coco/segm_mAP'),
    ([dict(type='LVISMetric'), dict(type='CocoMetric')], 'coco/bbox_mAP'),
    ([dict(type='CocoMetric'), dict(COCO, prefix='masks')], 'masks/segm_mAP'),
    (ACCURACY, 'accuracy/top1'),
    (dict(ACCURACY, topk=1, prefix='val'), 'val/top1'),
    (dict(type='mmseg.IoUMetric', iou_metrics=['mDice', 'mIoU']), 'mDice'),
    (dict(type='IoUMetric'), 'mIoU'),
    (dict(ACCURACY, topk=(5, )), 'auto'),
    (dict(ACCURACY, thrs=(0., 0.5)), 'auto'),
    (dict(type='IoUMetric', iou_metrics=['mFscore']), 'auto'),
    (dict(type='VOCMetric'), 'auto'),
    (dict(COCO, format_only=True, outfile_prefix='found'), 'auto'),
    (None, 'auto')])
def test_the_best_checkpoint_is_that_of_the_main_metric(evaluator, want):
    for auto in ('auto', ['auto']):
        cfg = Config(dict(val_evaluator=evaluator, **best(auto)))
        name_best_metric(cfg)
        assert cfg.default_hooks.checkpoint.save_best == want
        if want != 'auto':
            HOOKS.build(dict(type='CheckpointHook', save_best=want))  # it knows that the highest is the best


@pytest.mark.parametrize('given', ['coco/bbox_mAP_75', ['coco/bbox_mAP', 'coco/segm_mAP'], None])
def test_a_metric_that_is_named_stays(given):
    cfg = Config(dict(val_evaluator=COCO, **best(given)))
    name_best_metric(cfg)
    assert cfg.default_hooks.checkpoint.save_best == given


def test_classwise_without_coco_metrics_is_refused():
    with pytest.raises(SettingError, match='--classwise needs a CocoMetric'):
        followed(dict(classwise=True), evaluator=dict(type='VOCMetric'))


@pytest.mark.parametrize('given', ['DetVisualizationHook', 'mmdet.SwinPosVisualizationHook'])
def test_pictures_of_the_validation(given):
    cfg = followed(dict(val_pictures=3), default_hooks=dict(visualization=dict(type=given, score_thr=0.5)),
                   visualizer=dict(type='DetLocalVisualizer'))
    assert cfg.default_hooks.visualization == dict(type='mmdet.SwinPosVisualizationHook', score_thr=0.5, draw=True,
                                                   val_images=3)
    assert cfg.visualizer.type == 'mmdet.SwinPosVisualizer'


@pytest.mark.parametrize('hooks', [{}, dict(visualization=dict(type='SegVisualizationHook'))])
def test_pictures_of_the_validation_need_a_detector(hooks):
    with pytest.raises(SettingError, match='--val-pictures needs a detector'):
        followed(dict(val_pictures=3), default_hooks=hooks)
