"""The top level of a config, and the metrics that its parts follow."""
from __future__ import annotations

import argparse

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger

from swin_pos_det.cli.arguments import add_config_arguments
from swin_pos_det.cli.config_checks import check_config
from swin_pos_det.cli.metric_checks import check_followed_metrics
from swin_pos_det.errors import SettingError, SettingTypeError


def warnings_of(settings, options, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        check_config(Config(settings), options)
    finally:
        logger.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(('settings', 'options', 'message'), [
    (dict(load_frm='a.pth'), (), "the config sets 'load_frm', which nothing reads: did you mean 'load_from'?"),
    (dict(train_dataloader=dict(), train_dataloder=1), (), "did you mean 'train_dataloader'?"),
    (dict(max_epochs=3), ['max_epochs'], '--cfg-options max_epochs has no effect: neither MMEngine nor'),
    (dict(load_frm=''), ['load_frm'], "of this name (did you mean 'load_from'?)"),
    (dict(train_pipeline=[]), ['train_pipeline.0.scale', 'train_pipeline.1.prob'], 'train_pipeline has no effect'),
])
def test_settings_that_nothing_reads(caplog, settings, options, message):
    found = warnings_of(settings, options, caplog)
    assert len(found) == 1 and message in found[0]


@pytest.mark.parametrize(('settings', 'options'), [
    (dict(train_pipeline=[], val_pipeline=[], norm_cfg={}, max_epochs=3), ()),
    (dict(train_cfg={}, tta_model={}, auto_scale_lr={}), ['train_cfg.max_epochs', 'auto_scale_lr.enable', 'compile'])])
def test_variables_and_known_settings_pass(caplog, settings, options):
    assert warnings_of(settings, options, caplog) == []


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(custom_hooks='EMAHook'), "custom_hooks must be a list of dicts, such as .*, got 'EMAHook'"),
    (dict(custom_hooks=dict(type='EMAHook')), "custom_hooks must be a list of dicts, .* got {'type': 'EMAHook'}"),
    (dict(custom_hooks=['EMAHook']), 'custom_hooks must be a list of dicts'),
    (dict(default_hooks='none'), "default_hooks must be a dict, got 'none'"),
    (dict(model=[dict()]), 'model must be a dict'),
    (dict(val_evaluator='CocoMetric'), "val_evaluator must be a dict or a list of dicts, got 'CocoMetric'")])
def test_settings_of_the_wrong_kind(settings, message):
    with pytest.raises(SettingTypeError, match=message):
        check_config(Config(settings))


def test_settings_of_the_right_kind():
    check_config(Config(dict(custom_hooks=[dict(type='EMAHook'), EMAHook()], param_scheduler=[dict()],
                             val_evaluator=dict(), test_evaluator=None, model=dict())))


@pytest.mark.parametrize('pair', ["custom_hooks=dict(type='EMAHook')", "custom_hooks=[dict(type='EMAHook')]",
                                  'optim_wrapper.clip_grad={"max_norm":1}', 'a=dict(b=1,c=2)'])
def test_dicts_on_the_command_line(capsys, pair):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', pair])
    assert 'a dict is not allowed here; set its keys one by one' in capsys.readouterr().err
    assert parser.parse_args(['--cfg-options', 'a.b="[(1,2),3]"', 'name=epoch_{}.pth']).cfg_options == {
        'a.b': [(1, 2), 3], 'name': 'epoch_{}.pth'}


COCO = dict(type='CocoMetric', metric=['bbox', 'segm'])


def following(evaluator, **parts):
    return Config(dict(dict(val_dataloader=dict(), val_evaluator=evaluator), **parts))


def best(name):
    return dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best=name)))


@pytest.mark.parametrize(('evaluator', 'parts'), [
    (COCO, best('coco/segm_mAP')), (COCO, best('auto')), (COCO, best(['coco/bbox_mAP_50', 'coco/bbox_mAP_s'])),
    (COCO, dict()), (dict(COCO, prefix='val'), best('val/bbox_mAP')), ([COCO, dict(type='LVISMetric')], best('x')),
    (dict(COCO, metric='proposal'), best('coco/AR@300')), (dict(COCO, classwise=True), best('coco/cat_precision')),
    (dict(type='OVCocoMetric'), best('coco/novel_ap50')), (dict(type='SwinPosCocoMetric'), best('coco/bbox_mAP')),
    (dict(COCO, metric_items=['mAP_75']), best('coco/bbox_mAP_75'))])
def test_metrics_that_are_there(evaluator, parts):
    check_followed_metrics(following(evaluator, **parts))


@pytest.mark.parametrize(('evaluator', 'parts', 'message'), [
    (COCO, best('segm_mAP'), r"save_best is 'segm_mAP', which val_evaluator does not give \(did you mean 'coco/seg"),
    (dict(COCO, metric='bbox'), best('coco/segm_mAP'), r'it gives coco/bbox_mAP, coco/bbox_mAP_50'),
    (COCO, best(['coco/bbox_mAP', 'bbox']), "save_best is 'bbox'"),
    (dict(COCO, metric_items=['mAP_75']), best('coco/bbox_mAP'), "which val_evaluator does not give"),
    (COCO, best('coco/cat_precision'), 'does not give'),
    (dict(COCO, format_only=True), best('coco/bbox_mAP'), 'no metric, as it has format_only=True'),
    (dict(type='DigitsOnPhotosMetric'), best('coco/segm_mAP'), 'it gives coco/bbox_mAP'),
    (None, best('coco/bbox_mAP'), 'but the config has no evaluation: set val_dataloader'),
    (COCO, dict(custom_hooks=[dict(), dict(type='EarlyStoppingHook', monitor='map')]),
     "custom_hooks.1.monitor is 'map'"),
    (COCO, dict(param_scheduler=[dict(type='ReduceOnPlateauLR')]), r"param_scheduler.0.monitor is 'loss', which")])
def test_metrics_that_are_not_there(evaluator, parts, message):
    with pytest.raises(SettingError, match=message):
        check_followed_metrics(following(evaluator, **parts))


@pytest.mark.parametrize('evaluator', [COCO, None])
def test_the_best_of_whatever_there_is_names_no_metric(evaluator):
    check_followed_metrics(following(evaluator, **best('auto')))
