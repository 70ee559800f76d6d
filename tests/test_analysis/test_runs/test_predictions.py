"""Pictures of predictions show the annotations left and the detections right."""
from __future__ import annotations

import copy

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from swin_pos_det.analysis.runs import predictions


class OneBox(torch.nn.Module):
    """A detector that always finds one object, of class 3, in a given place."""

    def test_step(self, data):
        sample = data['data_samples'][0]
        mask = torch.zeros(1, *sample.ori_shape, dtype=torch.bool)
        mask[:, 10:60, 20:80] = True
        sample.pred_instances = InstanceData(bboxes=torch.tensor([[20., 10., 80., 60.]]), labels=torch.tensor([3]),
                                             scores=torch.tensor([0.6]), masks=mask)
        return [sample]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, 'init_detector', lambda cfg, checkpoint: OneBox())
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64), keep_ratio=True),
                dict(type='PackDetInputs')]
    return Config(dict(val_dataloader=dict(dataset=dict(
        type='DigitsOnPhotosDataset', data_root=str(tmp_path / 'digits'), num_train=1, num_val=3, seed=1,
        ann_file='annotations/val.json', data_prefix=dict(img='val/'), test_mode=True, pipeline=pipeline))))


def drawn_difference(picture, image):
    """Return where the two halves of a picture differ from the enlarged image: two arrays of booleans."""
    half = picture.shape[1] // 2
    factor = half / image.shape[1]
    header = picture.shape[0] - round(image.shape[0] * factor)
    plain = mmcv.imrescale(image, factor, interpolation='bicubic').astype(int)
    body = picture[header:].astype(int)
    return [np.abs(part - plain).max(2) > 40 for part in (body[:, :half], body[:, half:])], factor


def test_pictures(config, tmp_path):
    paths = predictions.draw_predictions(config, 'unused.pth', tmp_path / 'out', num_images=2)
    assert [path.name for path in paths] == ['000000.png', '000002.png']
    image = mmcv.imread(str(next((tmp_path / 'digits/val').glob('000000*'))))
    (left, right), factor = drawn_difference(mmcv.imread(str(paths[0])), image)
    x, y = round(50 * factor), round(35 * factor)
    inside = np.zeros_like(right)
    inside[:round(66 * factor), round(14 * factor):round(130 * factor)] = True
    assert right[y - 5:y + 5, x - 5:x + 5].mean() > 0.5, 'the mask is filled in'
    assert not right[~inside].any(), 'nothing else is drawn on the right'
    assert left.any(), 'annotations on the left'


def test_predictions_below_the_threshold_are_left_out(config, tmp_path):
    paths = predictions.draw_predictions(config, 'unused.pth', tmp_path / 'out', num_images=1, score_threshold=0.7)
    image = mmcv.imread(str(next((tmp_path / 'digits/val').glob('000000*'))))
    (_, right), _ = drawn_difference(mmcv.imread(str(paths[0])), image)
    assert not right.any()


def test_old_pictures_go(config, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/old.png').write_bytes(b'')
    predictions.draw_predictions(config, 'unused.pth', tmp_path / 'out', num_images=1)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['000000.png']


def test_images_of_one_name_have_a_picture_each(config, tmp_path, monkeypatch):
    dataset = predictions.DATASETS.build(config.val_dataloader.dataset)
    info = dataset.get_data_info(0)
    monkeypatch.setattr(type(dataset), 'get_data_info', lambda self, index: copy.deepcopy(info))
    paths = predictions.draw_predictions(config, 'unused.pth', tmp_path / 'out', num_images=2)
    assert [path.name for path in paths] == ['000000.png', '000000_2.png']
    assert all(path.is_file() for path in paths)


def test_wrong_arguments(config, tmp_path):
    with pytest.raises(ValueError, match='at least 1, got 0'):
        predictions.draw_predictions(config, 'unused.pth', tmp_path / 'out', num_images=0)
    with pytest.raises(ValueError, match='no val_dataloader'):
        predictions.draw_predictions(Config(dict(model=dict())), 'unused.pth', tmp_path / 'out')
