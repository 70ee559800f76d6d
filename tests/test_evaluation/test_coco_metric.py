"""The refusals, counts and names of a runner's metric; figures for odd files are in test_odd_results.py."""
from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config

from swin_pos_det.errors import SettingError, UserError
from swin_pos_det.evaluation import SwinPosCocoMetric
from swin_pos_det.evaluation.evaluator_checks import check_evaluators, use_own_metric

from .odd_results import CLASSES, scene
from .test_odd_results import samples


@pytest.fixture
def files(tmp_path):
    gt, results = scene()
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    return str(tmp_path / 'gt.json'), gt, results


def run(metric, found, classes=CLASSES):
    metric.dataset_meta = dict(classes=classes)
    for sample in found:
        metric.process({}, [sample])
    return metric.evaluate(len(found))


def change(sample, **fields):
    return dict(sample, pred_instances=dict(sample['pred_instances'], **fields))


@pytest.mark.parametrize(('make', 'message'), [
    (lambda found: [dict(sample, img_id=1) for sample in found], "3 evaluated images have the id 1: .*MultiDatasets"),
    (lambda found: [dict(sample, ori_shape=(80, 60)) for sample in found], 'image 1 is 60 x 80 .* is 80 x 60'),
    (lambda found: [change(found[0], labels=torch.full((3, ), 3))], 'gives label 3, but there are 3 categories'),
    (lambda found: [change(found[0], scores=torch.full((3, ), float('nan')))], 'image 1: .* score .* no finite number'),
    (lambda found: [{key: found[0][key] for key in ('pred_instances', 'ori_shape')}], 'does not keep img_id'),
    (lambda found: [dict(img_id=1, ori_shape=(60, 80))], 'predicts no instances'),
    (lambda found: [], 'no image was evaluated'),
])
def test_samples_that_have_no_right_number(files, make, message):
    path, gt, results = files
    with pytest.raises(UserError, match=message):
        run(SwinPosCocoMetric(path, ['bbox', 'segm']), make(list(samples(gt, results))))


def test_a_detector_without_masks(files):
    path, gt, results = files
    with pytest.raises(SettingError, match="'segm' evaluates masks, and the detector predicts none"):
        run(SwinPosCocoMetric(path, ['bbox', 'segm']), list(samples(gt, results, with_masks=False)))


def test_annotations_of_other_classes_or_of_several_data_sets(files):
    path, gt, results = files
    found = list(samples(gt, results))
    with pytest.raises(SettingError, match="has no category 'cow'"):
        run(SwinPosCocoMetric(path), found, ('cat', 'cow'))
    metric = SwinPosCocoMetric(path)
    metric.dataset_meta = [dict(classes=CLASSES), dict(classes=('cat', ))]
    metric.process({}, found)
    with pytest.raises(SettingError, match='MultiDatasetsEvaluator'):
        metric.evaluate(len(found))
    with pytest.raises(SettingError, match='has no ann_file'):
        run(SwinPosCocoMetric(), found)


def test_classes_keep_their_own_ap_in_any_order(files, tmp_path):
    """mmdet gives each class the AP of another if the file's categories are not sorted by id."""
    _, gt, results = files
    gt['categories'].reverse()
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    found = list(samples(gt, [item for item in results if item['category_id'] != 1]))  # no cat is found
    measured = run(SwinPosCocoMetric(str(tmp_path / 'gt.json'), classwise=True), found)
    assert [measured[f'coco/{name}_precision'] for name in CLASSES] == [0, 1, 1]


def test_recalls_have_their_own_names(files):
    path, gt, results = files
    measured = run(SwinPosCocoMetric(path, 'proposal', proposal_nums=(1, 2, 100)), list(samples(gt, results)))
    assert measured['coco/AR@1'] == pytest.approx(1 / 3, abs=1e-3)
    assert measured['coco/AR@100'] == 1


def test_fast_recall_does_not_depend_on_the_order_of_images(files):
    path, gt, results = files
    found = list(samples(gt, results))
    assert run(SwinPosCocoMetric(path, 'proposal_fast'), found[::-1])['coco/AR@100'] == pytest.approx(1)


def test_results_are_formatted_for_images_without_annotations(files, tmp_path):
    _, gt, results = files
    found = list(samples(gt, results))
    del gt['annotations']
    (tmp_path / 'images.json').write_text(json.dumps(gt))
    prefix = str(tmp_path / 'out')
    metric = SwinPosCocoMetric(str(tmp_path / 'images.json'), format_only=True, outfile_prefix=prefix)
    assert run(metric, found) == {}
    written = json.loads((tmp_path / 'out.segm.json').read_text())
    assert [item['image_id'] for item in written] == [item['image_id'] for item in results]


def test_cocos_metric_is_replaced_in_a_runner_only():
    cfg = dict(type='CocoMetric', ann_file='a.json')
    runner = SimpleNamespace(_val_evaluator=cfg, _test_evaluator=[dict(type=CocoMetric), dict(type='VOCMetric')])
    use_own_metric(runner)
    assert runner._val_evaluator['type'] is SwinPosCocoMetric
    assert [settings['type'] for settings in runner._test_evaluator] == [SwinPosCocoMetric, 'VOCMetric']


def test_settings_of_a_config_are_refused_before_anything_is_built():
    cfg = Config(dict(val_evaluator=dict(type='CocoMetric', ann_file='none.json', proposal_nums=(1, 10, 50))))
    with pytest.raises(SettingError, match='val_evaluator: proposal_nums must be three ascending'):
        check_evaluators(cfg, ['train', 'val'])
    check_evaluators(cfg, ['test'])
    cfg = Config(dict(test_evaluator=dict(type='CocoMetric', ann_file='none.json', no_such_setting=1)))
    check_evaluators(cfg, ['test'])  # the registry tells of that


@pytest.mark.parametrize('metric', ['segm', ['bbox', 'segm'], ['proposal', 'bbox', 'segm'], 'bbox'])
@pytest.mark.parametrize('classwise', [True, False])
def test_the_first_value_is_the_one_to_choose_the_best_checkpoint_by(files, metric, classwise):
    path, gt, results = files
    names = list(run(SwinPosCocoMetric(path, metric, classwise=classwise), list(samples(gt, results))))
    assert names[0] == ('coco/bbox_mAP' if metric == 'bbox' else 'coco/segm_mAP')
    of_classes = [name.endswith('_precision') for name in names]
    assert of_classes == sorted(of_classes) and sum(of_classes) == (len(CLASSES) if classwise else 0)
