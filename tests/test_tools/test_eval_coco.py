"""eval_coco.py gives the same numbers as test.py for its file."""
from __future__ import annotations

import json
from pathlib import Path

import mmcv
import mmengine
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from swin_pos_det.cli import runner

from .conftest import ROOT, load_tool

CONFIG = f"""
_base_ = '{ROOT}/configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
recipe = dict(num_train=1, num_val=6, seed=5, data_root='DIGITS')
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=recipe)
test_dataloader = val_dataloader
"""


@pytest.fixture(scope='module')
def eval_tool():
    return load_tool('analysis_tools/eval_coco.py')


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Return the data set's folder, made by the first test that asks for it."""
    return tmp_path_factory.mktemp('data') / 'digits'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, digits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.py').write_text(CONFIG.replace('DIGITS', str(digits)))
    torch.save({'state_dict': {'w': torch.ones(3)}}, 'weights.pth')


def oracle(samples):
    """Return a detector that knows roughly where digits are, and takes one in three for the next class."""
    results = []
    for sample in samples:
        truth = sample.gt_instances
        number = len(truth)
        boxes = truth.bboxes.tensor.clone()
        boxes[:, 2:] = boxes[:, :2] + (boxes[:, 2:] - boxes[:, :2]) * torch.linspace(0.75, 1, number)[:, None]
        labels = torch.where(torch.arange(number) % 3 == 2, (truth.labels + 1) % 10, truth.labels)
        masks = torch.as_tensor(truth.masks.to_ndarray()).bool().roll(2, 2)
        found = InstanceData(bboxes=boxes, labels=labels, masks=masks, scores=torch.linspace(0.9, 0.31, number))
        results.append(DetDataSample(pred_instances=found, metainfo=sample.metainfo))
    return results


@pytest.fixture
def tested(test_tool, monkeypatch):
    """Run test.py with :func:`oracle` for a model; return the metrics that it logged."""

    def run(*arguments, config='tiny.py'):
        build = runner.build_runner

        def build_oracle(cfg, **settings):
            cfg.load_from = None
            built = build(cfg, **settings)
            monkeypatch.setattr(built.model, 'test_step', lambda data: oracle(data['data_samples']))
            return built

        monkeypatch.setattr(runner, 'build_runner', build_oracle)
        status = test_tool.main([config, 'weights.pth', '--work-dir', 'run', *arguments])
        files = sorted(Path('run').glob('*/*.json'))
        return status, json.loads(files[-1].read_text()) if files else {}

    return run


def test_offline_evaluation_gives_the_same_numbers(tested, eval_tool, digits, capsys):
    status, logged = tested('--out', 'new/results.json')
    assert status == 0
    assert [path.name for path in Path('new').iterdir()] == ['results.json']
    gt = str(digits / 'annotations/val.json')
    scores = {}
    for evaluator in ('pycocotools', 'faster'):
        if evaluator == 'faster':
            pytest.importorskip('faster_coco_eval')
        assert eval_tool.main(['new/results.json', gt, '--evaluator', evaluator, '--out', 'scores.json']) == 0
        scores[evaluator] = json.loads(Path('scores.json').read_text())
        for kind in ('bbox', 'segm'):
            stats = scores[evaluator][kind]['stats']
            for ours, theirs in dict(AP='mAP', AP50='mAP_50', AP75='mAP_75', APs='mAP_s', APm='mAP_m').items():
                assert round(stats[ours], 3) == logged[f'coco/{kind}_{theirs}'], (kind, ours)
            assert stats['APl'] is None
            assert logged[f'coco/{kind}_mAP_l'] == -1
            assert 0.05 < stats['AP'] < 0.95
    output = capsys.readouterr().out
    assert all(title in output for title in ('boxes by class', 'masks by size', 'boxes: average recall', 'AR@1000'))


def test_pictures_and_some_classes(tested, eval_tool, digits, capsys):
    tested('--out', 'results.json')
    status = eval_tool.main([
        'results.json', str(digits / 'annotations/val.json'), '--metric', 'bbox', '--classes', '1', '7', '--max-dets',
        '1', '10', '100', '--confusion-matrix', 'new/confusion.png', '--pr-curve', 'new/pr.png'])
    assert status == 0
    assert all(mmcv.imread(f'new/{name}.png').std() > 1 for name in ('confusion', 'pr'))
    output = capsys.readouterr().out
    assert 'masks' not in output
    assert 'AR@100' in output
    assert output.endswith('new/pr.png\nnew/confusion.png\n')


def test_a_pickle_is_written_as_mmdet_does(tested):
    tested('--out', 'results.pkl')
    assert Path('results.pkl').stat().st_size > 1000


def test_thresholds_without_a_matrix_are_noted(tested, eval_tool, digits, capsys):
    tested('--out', 'results.json')
    capsys.readouterr()
    common = ['results.json', str(digits / 'annotations/val.json'), '--metric', 'bbox']
    assert eval_tool.main([*common, '--iou-thr', '0.7']) == 0
    assert capsys.readouterr().err == 'note: --iou-thr has no effect without --confusion-matrix\n'
    assert eval_tool.main([*common, '--iou-thr', '0.7', '--confusion-matrix', 'matrix.png']) == 0
    assert 'note' not in capsys.readouterr().err


def test_true_boxes_without_masks(tested, eval_tool, digits, capsys):
    tested('--out', 'results.json')
    content = json.loads((digits / 'annotations/val.json').read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    Path('boxes.json').write_text(json.dumps(content))
    assert eval_tool.main(['results.json', 'boxes.json']) == 1
    assert 'has no segmentation. --metric bbox evaluates the boxes alone' in capsys.readouterr().err
    assert eval_tool.main(['results.json', 'boxes.json', '--metric', 'bbox']) == 0


def test_results_are_written_whatever_evaluates_them(tested):
    status, _ = tested('--out', 'with_metric.json')
    assert status == 0
    status, _ = tested('--out', 'without.json', '--cfg-options', 'test_evaluator._delete_=True',
                       'test_evaluator.type=DumpProposals', 'test_evaluator.output_dir=.')
    assert status == 0
    assert json.loads(Path('without.json').read_text()) == json.loads(Path('with_metric.json').read_text())


@pytest.mark.parametrize(('results', 'message'), [
    ('nonsense', 'results.json is not JSON'), (None, 'results.json does not exist'),
    ('[{"image_id": -1, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', 'image_id'),
    ('[{"image_id": 0, "category_id": 1, "score": 1, "bbox": [0, 0, NaN, 1]}]', 'nan'),
    ('[{"image_id": 0, "category_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', None)])
def test_mistakes_are_told_in_one_line(eval_tool, capsys, results, message):
    Path('gt.json').write_text(json.dumps(dict(
        images=[dict(id=0, width=9, height=9, file_name='a.jpg')], categories=[dict(id=1, name='cat')],
        annotations=[dict(id=1, image_id=0, category_id=1, bbox=[0, 0, 1, 1], area=1, iscrowd=0,
                          segmentation=[[0, 0, 1, 0, 1, 1]])])))
    if results is not None:
        Path('results.json').write_text(results)
    arguments = ['results.json', 'gt.json'] + ([] if message else ['--metric', 'segm'])
    assert eval_tool.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('error: ')
    assert (message or 'not all detections have a segmentation') in lines[0]


@pytest.fixture
def several(digits, tested):
    """Return a function that runs test.py on two data sets whose images have the same ids."""

    def run(*arguments, prefixes=('val', 'train'), files=('val', 'train')):
        cfg = mmengine.Config.fromfile('tiny.py')
        first = cfg.test_dataloader.dataset.to_dict()
        second = dict(first, ann_file='annotations/train.json', data_prefix=dict(img='train/'))
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
        cfg.test_evaluator = dict(type='MultiDatasetsEvaluator', dataset_prefixes=list(prefixes), metrics=[
            dict(type='CocoMetric', ann_file=str(digits / f'annotations/{name}.json'), metric=['bbox', 'segm'])
            for name in files])
        cfg.dump('multi.py')
        return tested(*arguments, config='multi.py')

    return run


def test_results_of_all_data_sets_are_written(several, tested, eval_tool, digits):
    tested()  # makes the data
    status, logged = several('--out', 'results.json')
    assert status == 0
    found = json.loads(Path('results.json').read_text())
    sizes = {}
    for name in ('val', 'train'):
        truth = json.loads((digits / f'annotations/{name}.json').read_text())
        images = {item['image_id'] for item in truth['annotations']}
        assert {item['image_id'] for item in found if item['dataset'] == name} == images
        sizes[name] = len(images)
        assert eval_tool.main(['results.json', str(digits / f'annotations/{name}.json'), '--dataset', name, '--out',
                               f'{name}.json']) == 0
        scores = json.loads(Path(f'{name}.json').read_text())
        for kind in ('bbox', 'segm'):
            assert round(scores[kind]['stats']['AP'], 3) == logged[f'{name}/coco/{kind}_mAP']
    assert sizes['val'] > 1
    assert several('--out', 'results.pkl')[0] == 0
    assert len(mmengine.load('results.pkl')) == 7


def test_results_are_kept_when_their_evaluation_fails(several, tested, capsys, monkeypatch):
    tested()
    monkeypatch.setattr(runner, 'check_data', lambda *_: None)  # which notices the wrong file before
    status, _ = several('--out', 'results.json', files=('val', 'val'))
    assert status == 1
    assert "the evaluator's ann_file" in capsys.readouterr().err.splitlines()[-1]
    assert len({item['dataset'] for item in json.loads(Path('results.json').read_text())}) == 2


def test_a_data_set_without_a_metric_is_refused(several, tested, capsys):
    tested()
    status, _ = several(prefixes=['val'])
    assert status == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert '2 metrics, 1 prefixes, 2 data sets: it needs a metric and a prefix' in line
