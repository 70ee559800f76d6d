"""The embedded data set inside MMDetection: loading through the config's pipelines, and evaluating as COCO does."""
from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_pos_det.data import DigitsOnPhotosDataset

CONFIG = Path(__file__).parents[2] / 'configs/_base_/digits_on_photos.py'
STATS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


@pytest.fixture(scope='module')
def cfg(small_digits) -> Config:
    register_all_modules(init_default_scope=True)
    cfg = Config.fromfile(CONFIG)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(small_digits)
        loader.num_workers, loader.persistent_workers = 0, False
    return cfg


@pytest.fixture(scope='module')
def val_set(cfg) -> DigitsOnPhotosDataset:
    return DATASETS.build(cfg.val_dataloader.dataset)


def test_validation_samples_are_the_files_annotations(val_set, small_digits):
    api = COCO(small_digits / 'annotations/val.json')
    assert len(val_set) == len(api.imgs) == 24
    for index in range(len(val_set)):
        sample = val_set[index]['data_samples']
        annotations = api.imgToAnns[sample.img_id]
        for instances, crowd in ((sample.gt_instances, 0), (sample.ignored_instances, 1)):
            expected = [annotation for annotation in annotations if annotation['iscrowd'] == crowd]
            assert len(instances.bboxes) == len(expected)
            boxes = np.array([annotation['bbox'] for annotation in expected]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_array_equal(instances.bboxes.numpy(), boxes)
            assert instances.labels.tolist() == [annotation['category_id'] - 1 for annotation in expected]
            for mask, annotation in zip(instances.masks.masks, expected):
                np.testing.assert_array_equal(mask, api.annToMask(annotation))


def test_training_samples_fit_their_resized_image(cfg, small_digits):
    train_set = DATASETS.build(cfg.train_dataloader.dataset)
    images = json.loads((small_digits / 'annotations/train.json').read_text())['images']
    assert len(train_set) == len(images) - 1  # the empty one is left out
    for index in range(len(train_set)):
        packed = train_set[index]
        instances = packed['data_samples'].gt_instances
        assert packed['inputs'].dtype == torch.uint8
        assert max(packed['inputs'].shape[1:]) == 256
        assert instances.masks.masks.shape[1:] == packed['inputs'].shape[1:]
        for mask, box in zip(instances.masks.masks, instances.bboxes.numpy()):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            extent = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(extent, box, atol=2)
        assert not packed['data_samples'].get('flip', False)


def test_the_loaders_batch(cfg):
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batch = next(iter(loader))
    assert len(batch['inputs']) == len(batch['data_samples']) == 4
    assert loader.dataset.metainfo['classes'] == tuple('0123456789')
    assert len(set(loader.dataset.metainfo['palette'])) == 10


def test_a_class_subset(cfg):
    only = copy.deepcopy(cfg.val_dataloader.dataset)
    only.metainfo = {'classes': ('3', '7')}
    infos = DATASETS.build(only).load_data_list()
    labels = {instance['bbox_label'] for info in infos for instance in info['instances']}
    assert labels == {0, 1}


def test_made_when_first_read_not_before(cfg, tmp_path):
    lazy = dict(cfg.val_dataloader.dataset, data_root=str(tmp_path / 'digits'), num_train=2, num_val=3, lazy_init=True)
    dataset = DATASETS.build(lazy)
    assert not (tmp_path / 'digits').exists()
    assert len(dataset) == 3  # reads it
    assert len(list((tmp_path / 'digits/train').iterdir())) == 2


def test_made_at_the_default_place(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv('SWIN_POS_DET_DATA', str(tmp_path))
    for data_root in (None, ''):
        dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=data_root, num_train=1, num_val=2))
        assert dataset.metainfo['ann_file'].startswith(str(tmp_path / 'digits_on_photos-v'))
    assert dataset[1]['inputs'].shape[0] == 3


def test_training_metainfo_names_no_path(cfg):
    train_set = DATASETS.build(cfg.train_dataloader.dataset)
    assert set(train_set.metainfo) == {'classes', 'palette'}  # it goes into every checkpoint


def test_mistakes(cfg):
    dataset = cfg.val_dataloader.dataset
    with pytest.raises(FileNotFoundError, match="test.json does not exist.*'annotations/val.json'"):
        DATASETS.build(dict(dataset, ann_file='annotations/test.json'))
    with pytest.raises(ValueError, match='was made with num_val=24, not 25'):
        DATASETS.build(dict(dataset, num_val=25))
    metric = METRICS.build(cfg.val_evaluator)
    with pytest.raises(ValueError, match='test_mode=True'):
        metric.dataset_meta = {'classes': tuple('0123456789')}


def predictions(dataset: DigitsOnPhotosDataset, ann_file: Path) -> list[dict]:
    """Return imperfect detections: shifted boxes and masks, misses, false alarms, wrong classes, hits in crowds."""
    rng = np.random.default_rng(0)
    api = COCO(ann_file)
    samples = []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        height, width = sample.ori_shape
        boxes, labels, masks = [], [], []
        for annotation in api.imgToAnns[sample.img_id]:
            mask = api.annToMask(annotation).astype(bool)
            x, y, w, h = annotation['bbox']
            shift = rng.integers(-2, 3, size=2) * (max(w, h) > 30)
            label = annotation['category_id'] - 1
            parts = [(0, 0, 1, 1)]
            if annotation['iscrowd']:  # several separate hits: false alarms, were the crowd not known as one
                parts = [(0, 0, .5, .5), (.5, 0, .5, .5), (0, .5, .5, .5), (.5, .5, .5, .5)]
            elif rng.random() < .1:
                continue
            for left, top, wide, high in parts:
                box = np.round([x + left * w, y + top * h, x + (left + wide) * w, y + (top + high) * h]).astype(int)
                part = np.zeros_like(mask)
                part[box[1]:box[3], box[0]:box[2]] = mask[box[1]:box[3], box[0]:box[2]]
                boxes.append(box + np.tile(shift, 2))
                labels.append(label if rng.random() > .1 else (label + 1) % 10)
                masks.append(np.roll(part, shift[::-1], axis=(0, 1)))
        boxes.append(np.array([5, 5, 45, 45]))
        labels.append(int(rng.integers(10)))
        masks.append(np.pad(np.ones((40, 40), bool), ((5, height - 45), (5, width - 45))))
        instances = InstanceData(bboxes=torch.tensor(np.array(boxes), dtype=torch.float32),
                                 labels=torch.tensor(labels), masks=torch.tensor(np.array(masks)),
                                 scores=torch.tensor(rng.uniform(.3, 1, len(boxes)), dtype=torch.float32))
        samples.append({**sample.to_dict(), 'pred_instances': instances})
    return samples


def reference_stats(ann_file: Path, samples: list[dict], iou_type: str, crowds: bool = True) -> dict[str, float]:
    """Compute AP by pycocotools alone, on the file itself."""
    api = COCO(ann_file)
    if not crowds:
        for annotation in api.anns.values():
            annotation['iscrowd'] = 0
    results = []
    for sample in samples:
        instances = sample['pred_instances']
        for box, label, mask, score in zip(instances.bboxes.tolist(), instances.labels.tolist(),
                                           instances.masks.numpy(), instances.scores.tolist()):
            result = {'image_id': sample['img_id'], 'category_id': label + 1, 'score': score}
            if iou_type == 'bbox':
                result['bbox'] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            else:
                result['segmentation'] = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            results.append(result)
    evaluation = COCOeval(api, api.loadRes(results), iou_type)
    evaluation.params.maxDets = [100, 300, 1000]  # CocoMetric's
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: evaluation.eval['precision'][at] for name, at in {
        'mAP': np.s_[:, :, :, 0, -1], 'mAP_50': np.s_[0, :, :, 0, -1], 'mAP_75': np.s_[5, :, :, 0, -1],
        'mAP_s': np.s_[:, :, :, 1, -1], 'mAP_m': np.s_[:, :, :, 2, -1], 'mAP_l': np.s_[:, :, :, 3, -1]}.items()}


def mean_precision(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.


def test_ap_equals_pycocotools_on_the_file(cfg, val_set, small_digits):
    ann_file = small_digits / 'annotations/val.json'
    samples = predictions(val_set, ann_file)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = val_set.metainfo
    metric.process({}, copy.deepcopy(samples))
    measured = metric.evaluate(size=len(samples))
    for iou_type in ('bbox', 'segm'):
        expected = reference_stats(ann_file, samples, iou_type)
        for name in STATS:
            assert measured[f'coco/{iou_type}_{name}'] == pytest.approx(mean_precision(expected[name]), abs=6e-4), name
        blind = mean_precision(reference_stats(ann_file, samples, iou_type, crowds=False)['mAP'])
        assert .2 < measured[f'coco/{iou_type}_mAP'] < .95
        assert measured[f'coco/{iou_type}_mAP'] > blind + .002  # hits inside a crowd cost nothing


def test_a_given_annotation_file_is_honoured(small_digits):
    metric = METRICS.build({'type': 'DigitsOnPhotosMetric', 'ann_file': str(small_digits / 'annotations/train.json')})
    metric.dataset_meta = {'classes': tuple('0123456789'), 'ann_file': 'nowhere.json'}
    assert metric.dataset_meta['ann_file'] == 'nowhere.json'
    photos = {info['photo'] for info in metric._coco_api.imgs.values()}
    assert 'skimage/chelsea.png' not in photos
    assert len(metric._coco_api.imgs) == 24
