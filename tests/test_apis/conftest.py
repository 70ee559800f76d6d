"""A detector with random weights, as files, and pictures for it."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

import swin_pos_det  # noqa: F401
from swin_pos_det.apis import init_detector

ROOT = Path(__file__).parents[2]
NAMES = tuple('abcdefghij')


@pytest.fixture(scope='session')
def files(tmp_path_factory):
    """Return a config of the demo's detector, on small images, and a checkpoint for it."""
    folder = tmp_path_factory.mktemp('detector')
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
    cfg.test_dataloader.dataset.pipeline[1].scale = (128, 128)
    cfg.model.test_cfg.rpn.max_per_img = 30
    cfg.model.test_cfg.rcnn.max_per_img = 8
    cfg.dump(str(folder / 'config.py'))
    torch.manual_seed(1)
    model = init_detector(cfg, device='cpu')
    model.init_weights()
    with torch.no_grad():  # random weights of the usual size would find everything equally likely everywhere
        model.roi_head.bbox_head.fc_cls.weight.mul_(10)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(CLASSES=NAMES))), folder / 'weights.pth')
    return folder / 'config.py', folder / 'weights.pth'


@pytest.fixture(scope='session')
def detector(files):
    return init_detector(*files, device='cpu')


@pytest.fixture(scope='session')
def picture():
    """Return (96, 128, 3) RGB uint8, smooth, so that JPEG changes little."""
    y, x = np.mgrid[:96, :128]
    return np.stack([x * 2, y * 2.6, (x + y)], 2).clip(0, 255).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an array, as Pillow takes it, under a name in a folder of its own."""

    def run(array, name, **kwargs):
        path = tmp_path / 'pictures' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **kwargs)
        return path

    return run
