"""Every config trains and evaluates on a few images, with a small model: see :mod:`tests.test_configs.tiny`."""
from __future__ import annotations

import gc
import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from swin_pos_det.cli.runner import build_runner
from swin_pos_det.data.digits.on_photos import make_digits_on_photos
from tests.test_configs.test_configs import CONFIGS, FOLDER
from tests.test_configs.tiny import ITERATIONS, tiny


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return tmp_path_factory.mktemp('digits')


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Return ``COCO_ROOT`` or, where it is not set, digits in COCO's layout with its first class names."""
    if os.environ.get('COCO_ROOT'):
        return Path(os.environ['COCO_ROOT'])
    root = tmp_path_factory.mktemp('coco')
    make_digits_on_photos(root, num_train=8, num_val=4, seed=0)
    categories = [dict(id=number, name=name) for number, name in enumerate(CocoDataset.METAINFO['classes'], 1)]
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/{split}.json').read_text())
        digits = sorted(category['id'] for category in content['categories'])
        for annotation in content['annotations']:
            annotation['category_id'] = 1 + digits.index(annotation['category_id'])
        content['categories'] = categories
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
        (root / split).rename(root / f'{split}2017')
    return root


@pytest.fixture(autouse=True)
def _one_thread_and_short_logs(monkeypatch):
    # With each runner MMEngine asks compilers for their versions and formats the config four times: seconds.
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # each runner collects garbage twice, among all that was imported
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


# Sharded training has tests of its own. Of Swin V2 every size runs at window 8, and Swin V2-T at every window.
RUN = [name for name in CONFIGS if not re.search('fsdp|deepspeed|swinv2-pos-[sbl]-p4-w(16|32)', name)]


@pytest.mark.slow
@pytest.mark.parametrize('name', RUN)
def test_trains_two_iterations_and_evaluates(name, coco, digits, tmp_path):
    cfg = tiny(Config.fromfile(FOLDER / name), coco, digits, tmp_path / name[:-3])
    if 'swinv2' in name:  # 2 batches of 2 images: some of 18 blocks would be dropped for all four, and get no gradient
        cfg.model.backbone.drop_path_rate = 0.
    runner = build_runner(cfg)
    runner.model.init_weights()
    before = {key: value.clone() for key, value in runner.model.backbone.state_dict().items()}
    runner.model.init_weights = lambda: None  # the runner would draw them again
    runner.train()
    assert runner.iter == ITERATIONS
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())
    moved = {key for key, value in runner.model.backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in before if 'table' in key or 'qkv.weight' in key} <= moved, 'gradients reach every block'
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    masks = 'segm' in cfg.val_evaluator.metric
    assert {f'val/coco/{kind}_mAP' for kind in (['bbox', 'segm'] if masks else ['bbox'])} <= set(scalars)
