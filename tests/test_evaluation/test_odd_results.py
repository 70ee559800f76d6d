"""Every odd input of the table gives its figure or its line, by the metric and by eval_coco, with both evaluators."""
from __future__ import annotations

import json
import re

import pytest
import torch
from mmdet.registry import METRICS

from swin_pos_det.errors import UserError
from tests.test_tools.conftest import load_tool

from .odd_results import CASES, CLASSES, HEIGHT, WIDTH, write

EVALUATORS = ('pycocotools', 'faster')


@pytest.fixture(scope='module')
def eval_tool():
    return load_tool('analysis_tools/eval_coco.py')


def samples(gt, results, with_masks=True):
    """Yield the samples that a detector with these results gives a metric: each image of either."""
    numbers = {category['id']: label for label, category in enumerate(gt['categories'])}
    images = dict.fromkeys([image['id'] for image in gt['images']] + [item['image_id'] for item in results])
    for image in images:
        own = [item for item in results if item['image_id'] == image]
        boxes = torch.tensor([item['bbox'] for item in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        predicted = dict(bboxes=boxes, scores=torch.tensor([item['score'] for item in own], dtype=torch.float64),
                         labels=torch.tensor([numbers[item['category_id']] for item in own], dtype=torch.long))
        if with_masks:
            predicted['masks'] = [item['segmentation'] for item in own]
        yield dict(pred_instances=predicted, img_id=image, ori_shape=(HEIGHT, WIDTH))


def measure(kind, ann_file, gt, results, **settings):
    """Evaluate with a metric as a runner does."""
    metric = METRICS.build(dict(dict(type=kind, ann_file=str(ann_file), metric=['bbox', 'segm']), **settings))
    metric.dataset_meta = dict(classes=CLASSES)
    found = list(samples(gt, results, 'segm' in metric.metrics))
    for sample in found:
        metric.process({}, [sample])
    return metric.evaluate(len(found))


def by_metric(case, folder, evaluator):
    gt, results = write(case, folder)
    settings = dict(dict(evaluator=evaluator), **case.metric)
    return {key[5:9]: value for key, value in
            measure('SwinPosCocoMetric', folder / 'gt.json', gt, results, **settings).items() if key.endswith('_mAP')}


ROWS = [pytest.param(case, way, evaluator, id=f'{case.name}-{way}-{evaluator}')
        for case in CASES for way in case.by for evaluator in EVALUATORS]


@pytest.mark.parametrize(('case', 'way', 'evaluator'), ROWS)
def test_odd_inputs(case, way, evaluator, tmp_path, eval_tool, capsys):
    if evaluator == 'faster':
        pytest.importorskip('faster_coco_eval')
    if way == 'metric':
        if isinstance(case.expected, str):
            with pytest.raises(UserError, match=case.expected) as error:
                by_metric(case, tmp_path, evaluator)
            assert '\n' not in str(error.value)
            return
        measured = by_metric(case, tmp_path, evaluator)
    else:
        write(case, tmp_path)
        status = eval_tool.main([str(tmp_path / 'results.json'), str(tmp_path / 'gt.json'), '--evaluator', evaluator,
                                 '--out', str(tmp_path / 'scores.json'), *case.arguments])
        lines = capsys.readouterr().err.splitlines()
        if isinstance(case.expected, str):
            assert status == 1
            assert len(lines) == 1
            assert re.search(case.expected, lines[0])
            return
        assert status == 0
        measured = {kind: scores['stats']['AP'] for kind, scores in
                    json.loads((tmp_path / 'scores.json').read_text()).items()}
    assert measured
    assert all(value == pytest.approx(case.expected, abs=6e-4) for value in measured.values()), measured


def test_the_table():
    assert len({case.name for case in CASES}) == len(CASES) >= 80
    assert all(case.otherwise for case in CASES)
