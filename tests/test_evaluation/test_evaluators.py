"""The faster evaluator gives pycocotools' numbers, and mmdet's metric takes it by a setting."""
from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from pycocotools import mask as rle

from swin_pos_det.analysis.studies.evaluator_comparison import compare_evaluators, jittered_detections, replicate
from swin_pos_det.evaluation import SwinPosCocoMetric, evaluator_class
from swin_pos_det.evaluation.annotations import as_coco

pytest.importorskip('faster_coco_eval')
CLASSES = ('cat', 'dog', 'unseen')


@pytest.fixture(scope='module')
def small():
    """Return two images with cats, dogs, a crowd of cats and an object of exactly 32 x 32; a third image is empty."""
    def box(index, image, category, x, y, w, h, **more):
        return dict(dict(id=index, image_id=image, category_id=category, bbox=[x, y, w, h], area=w * h, iscrowd=0,
                         segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]), **more)

    crowd = rle.encode(np.asfortranarray(np.pad(np.ones((50, 60), np.uint8), ((60, 10), (100, 0)))))
    annotations = [box(1, 10, 1, 5, 5, 32, 32), box(2, 10, 1, 50, 8, 20, 40), box(3, 10, 2, 90, 2, 60, 50),
                   box(4, 20, 2, 0, 0, 100, 100), box(5, 20, 1, 3, 60, 30, 30, ignore=1),
                   box(6, 10, 1, 100, 60, 60, 50, iscrowd=1,
                       segmentation=dict(size=[120, 160], counts=crowd['counts'].decode()))]
    return dict(images=[dict(id=index, width=160, height=120, file_name=f'{index}.jpg') for index in (10, 20, 30)],
                categories=[dict(id=index, name=name) for index, name in zip((1, 2, 7), CLASSES)],
                annotations=annotations)


@pytest.fixture(scope='module')
def coco_open(coco_root):
    return json.loads((coco_root / 'annotations/instances_val2017.json').read_text())


@pytest.fixture(scope='module')
def coco_results(coco_open):
    return jittered_detections(as_coco(copy.deepcopy(coco_open)), per_image=400, seed=3)


def count(results, *keys):
    return np.unique([tuple(item[key] for key in keys) for item in results], axis=0, return_counts=True)[1]


def test_the_made_up_detections_are_hard(coco_open, coco_results):
    gt = as_coco(copy.deepcopy(coco_open))
    results = coco_results
    assert results == jittered_detections(gt, per_image=400, seed=3), 'the same seed, the same detections'
    assert count(results, 'image_id').max() > 100
    assert count(results, 'image_id', 'category_id').max() > 100, 'the limit applies to each category of an image'
    assert len({item['image_id'] for item in results}) < len(gt.imgs), 'images without detections'
    assert {item['image_id'] for item in results} - {item['image_id'] for item in gt.dataset['annotations']}
    assert {item['category_id'] for item in results} - {item['category_id'] for item in gt.dataset['annotations']}
    assert any(item['iscrowd'] for item in gt.dataset['annotations'])
    assert count(results, 'image_id', 'category_id', 'score').max() > 2, 'ties'


@pytest.mark.parametrize(('max_dets', 'use_categories'), [
    ((1, 10, 100), True), ((100, 300, 1000), True), ((3, 100, 150), False)])
@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_parity_on_coco(coco_open, coco_results, iou_type, max_dets, use_categories):
    compared = compare_evaluators(coco_open, coco_results, iou_type, max_dets, use_categories)
    assert compared.difference < 1e-12
    assert (compared.stats['pycocotools'] > 0.01).all(), 'equal zeros would prove nothing'


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_parity_on_little_data(small, iou_type, seed):
    results = jittered_detections(as_coco(copy.deepcopy(small)), per_image=150, seed=seed)
    whole = dict(results[0], image_id=10, category_id=1, bbox=[5., 5., 32., 32.], score=0.5)
    results += [whole, dict(whole), dict(whole, bbox=[5., 5., 0., 0.]), dict(whole, score=1), dict(whole, score=0)]
    for max_dets in ((1, 10, 100), (100, 300, 1000)):
        compared = compare_evaluators(small, results, iou_type, max_dets)
        assert compared.difference < 1e-12
        assert compared.stats['pycocotools'][0] > 0


def test_a_difference_is_seen(small, monkeypatch):
    results = jittered_detections(as_coco(copy.deepcopy(small)), per_image=20, seed=0)
    cls = evaluator_class('faster')
    original = cls.accumulate

    def wrong(self):
        original(self)
        precision = np.asarray(self.eval['precision'])
        self.eval['precision'] = np.where(precision > -1, precision + 1e-9, precision)

    monkeypatch.setattr(cls, 'accumulate', wrong)
    assert compare_evaluators(small, results, 'bbox').difference == pytest.approx(1e-9, rel=1e-3)


def test_replicate(small):
    larger = replicate(small, 3)
    assert len({image['id'] for image in larger['images']}) == 9
    assert len({item['id'] for item in larger['annotations']}) == 18
    assert [item['image_id'] for item in larger['annotations'][:6]] == [
        item['image_id'] for item in small['annotations']]
    recalls = []
    for dataset in (small, larger):
        results = [dict(image_id=image['id'], category_id=1, bbox=[5., 5., 30., 32.], score=0.5)
                   for image in dataset['images']]
        recalls.append(compare_evaluators(dataset, results, 'bbox').stats['faster'][6:].tolist())
    assert recalls[0] == recalls[1]
    assert max(recalls[0]) > 0


def metrics_of(metric, dataset):
    """Return a metric's results for detections that fit the boxes of every third image less and less well."""
    metric.dataset_meta = dict(classes=CLASSES)
    coco = as_coco(copy.deepcopy(dataset))
    for image_id in coco.getImgIds():
        items = coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=False))
        boxes = torch.tensor([item['bbox'] for item in items]).reshape(-1, 4)
        boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * 0.8
        masks = torch.stack([torch.as_tensor(coco.annToMask(item)) for item in items]).bool() if items else torch.zeros(
            0, 120, 160).bool()
        labels = torch.tensor([min(item['category_id'], 2) - 1 for item in items], dtype=torch.long)
        prediction = dict(bboxes=boxes, scores=torch.linspace(0.9, 0.1, len(items)), labels=labels, masks=masks)
        metric.process({}, [dict(pred_instances=prediction, img_id=image_id, ori_shape=(120, 160))])
    return metric.evaluate(len(coco.imgs))


def test_the_metric_is_mmdets(small, tmp_path):
    path = tmp_path / 'gt.json'
    path.write_text(json.dumps(small))
    arguments = dict(ann_file=str(path), metric=['bbox', 'segm', 'proposal'], classwise=True)
    theirs = metrics_of(CocoMetric(**arguments), small)
    faster = METRICS.build(dict(type='SwinPosCocoMetric', evaluator='faster', **arguments))
    used = []
    faster._evaluator_class = lambda *args: used.append(args) or evaluator_class('faster')(*args)
    np.testing.assert_equal(metrics_of(faster, small), theirs)
    assert len(used) == 3
    assert 0 < theirs['coco/bbox_mAP'] < 1
    np.testing.assert_equal(metrics_of(SwinPosCocoMetric(**arguments), small), theirs)


def test_mmdets_own_metric_stays_as_it_was():
    from mmdet.evaluation.metrics import coco_metric
    from pycocotools.cocoeval import COCOeval
    assert coco_metric.COCOeval is COCOeval


def test_the_embedded_data_sets_metric_takes_it_too():
    metric = METRICS.build(dict(type='DigitsOnPhotosMetric', evaluator='faster'))
    assert metric._evaluator_class is evaluator_class('faster')
    assert METRICS.build(dict(type='DigitsOnPhotosMetric'))._evaluator_class is evaluator_class('pycocotools')


def test_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="one of .*'faster'.*got 'fast'"):
        SwinPosCocoMetric(evaluator='fast')
    with pytest.raises(ValueError, match='use_mp_eval=True'):
        SwinPosCocoMetric(evaluator='faster', use_mp_eval=True)
    monkeypatch.setitem(__import__('sys').modules, 'swin_pos_det.evaluation.faster_cocoeval', None)
    with pytest.raises(ImportError, match='pip install faster-coco-eval'):
        SwinPosCocoMetric(evaluator='faster')
    assert SwinPosCocoMetric(use_mp_eval=True).evaluator == 'pycocotools'
