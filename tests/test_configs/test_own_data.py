"""The config for data of one's own in docs/training.md."""
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from PIL import Image

from swin_pos_det.cli.runner import check_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cfg(tmp_path):
    """Return the config of docs/training.md, with 3 and 2 images of a cat and a dog in place of its folder."""
    (block, ) = re.findall(r"```python\n(_base_[^`]*pets = [^`]*)```", (ROOT / 'docs/training.md').read_text())
    assert "_base_ = 'configs/" in block and block.count('/data/pets/') == 2
    for split, images in (('train', 3), ('val', 2)):
        (tmp_path / split).mkdir()
        for i in range(images):
            Image.new('RGB', (64, 64)).save(tmp_path / split / f'{i}.jpg')
        (tmp_path / f'{split}.json').write_text(json.dumps(dict(
            images=[dict(id=i, file_name=f'{i}.jpg', height=64, width=64) for i in range(images)],
            categories=[dict(id=5, name='cat'), dict(id=9, name='dog')],
            annotations=[dict(id=i, image_id=i, category_id=(5, 9)[i % 2], bbox=[1, 2, 40, 50], area=2000, iscrowd=0,
                              segmentation=[[1, 2, 41, 2, 41, 52, 1, 52]]) for i in range(images)])))
    block = block.replace("'configs/", f"'{ROOT}/configs/").replace('/data/pets', str(tmp_path))
    (tmp_path / 'pets.py').write_text(block)
    return Config.fromfile(tmp_path / 'pets.py')


def test_it_is_whole(cfg):
    check_data(cfg, ['train', 'val', 'test'])
    data = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(data) == 3
    assert data.metainfo['classes'] == ('cat', 'dog')
    assert [instance['bbox_label'] for i in range(3) for instance in data.get_data_info(i)['instances']] == [0, 1, 0]
    assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file
    assert {cfg.model.roi_head[head].num_classes for head in ('bbox_head', 'mask_head')} == {2}
