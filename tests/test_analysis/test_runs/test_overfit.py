"""The subset of images that the over-fitting check uses."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from swin_pos_det.analysis.runs.overfit import use_subset, write_subset

CONFIG = Path(__file__).parents[3] / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_overfit_coco.py'


@pytest.fixture
def annotations(tmp_path):
    coco = dict(
        images=[dict(id=i) for i in (4, 2, 3, 1, 5)],
        categories=[dict(id=1, name='thing')],
        annotations=[dict(id=n, image_id=image, iscrowd=crowd)
                     for n, (image, crowd) in enumerate([(2, 0), (1, 1), (4, 0), (2, 1), (3, 0), (3, 0)])])
    path = tmp_path / 'all.json'
    path.write_text(json.dumps(coco))
    return path


def test_takes_the_first_images_with_objects(annotations, tmp_path):
    assert write_subset(str(annotations), str(tmp_path / 'new/few.json'), 2) == 4
    few = json.loads((tmp_path / 'new/few.json').read_text())
    assert sorted(image['id'] for image in few['images']) == [2, 3]  # 1 has a crowd region only, 5 nothing
    assert sorted(a['id'] for a in few['annotations']) == [0, 3, 4, 5]
    assert few['categories'] == [dict(id=1, name='thing')]


@pytest.mark.parametrize('number', [0, 4])
def test_too_many_or_none_is_named(annotations, tmp_path, number):
    with pytest.raises(ValueError, match=f'has 3 images with objects; asked for {number}'):
        write_subset(str(annotations), str(tmp_path / 'few.json'), number)


def test_every_part_of_the_config_gets_the_subset(tmp_path):
    cfg = Config.fromfile(CONFIG)
    use_subset(cfg, str(tmp_path / 'few.json'))
    files = {cfg.train_dataloader.dataset.dataset.ann_file, cfg.val_dataloader.dataset.ann_file,
             cfg.test_dataloader.dataset.ann_file, cfg.val_evaluator.ann_file, cfg.test_evaluator.ann_file}
    assert files == {str(tmp_path / 'few.json')}
