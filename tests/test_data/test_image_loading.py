"""Unusable images are named, or skipped and counted; sizes are compared when an image is read."""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from swin_pos_det.cli.runner import check_data
from swin_pos_det.data.image_loading import SwinPosLoadImageFromFile
from swin_pos_det.data.images import ImageFileError

from .odd_inputs import HEIGHT, WIDTH, Scene


@pytest.fixture
def warnings(caplog):
    """Return the logged warnings."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logger.removeHandler(caplog.handler)


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Return a training of 6 images, the second of which is cut and the fifth of which is a text."""
    monkeypatch.setattr('logging.raiseExceptions', False)
    made = Scene(tmp_path)
    made.write_all()
    cut = tmp_path / 'train/t1.jpg'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-300])
    (tmp_path / 'train/t4.jpg').write_text('no image')
    return made


def loader(scene, workers):
    """Return batches of one image; the first takes the place of one that is unusable."""
    dataset = DATASETS.build(scene.trained)
    dataset._rand_another = lambda: 0
    more = dict(multiprocessing_context='fork') if workers else {}
    return DataLoader(dataset, batch_size=1, num_workers=workers, collate_fn=pseudo_collate, **more)


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_cannot_be_used_are_skipped_and_counted(scene, workers, warnings):
    scene.cfg.skip_unreadable_images = True
    check_data(scene.cfg, ['train', 'val'])
    batches = loader(scene, workers)
    load = batches.dataset.pipeline.transforms[0]
    assert isinstance(load, SwinPosLoadImageFromFile) and load.num_skipped == 0
    for epoch in (1, 2):
        ids = [batch['img_id'][0] for batch in batches]
        assert ids == [1, 1, 3, 4, 1, 6]
        assert load.num_skipped == 2 * epoch
    said = [line for line in warnings() if line.startswith('skipped ')]
    if workers == 0:  # workers have loggers of their own
        assert said == [f'skipped {scene.root}/train/t1.jpg: it is truncated (1 skipped so far)',
                        f'skipped {scene.root}/train/t4.jpg: it is no image (2 skipped so far)'], 'each one once'


def test_otherwise_they_stop_the_training(scene):
    """Such a file is met late if it is not among those that are looked at before; a worker's error is passed on."""
    check_data(scene.cfg, [])
    with pytest.raises(ImageFileError) as raised:
        DATASETS.build(scene.trained)[1]
    assert str(raised.value) == (f'{scene.root}/train/t1.jpg is not usable as an image: it is truncated. '
                                 'skip_unreadable_images=True in the config leaves such images out of a training')
    passed_on = ExceptionWrapper((raised.type, raised.value, raised.tb), 'in DataLoader worker process 1')
    with pytest.raises(ImageFileError) as raised_again:
        passed_on.reraise()
    assert str(raised_again.value) == str(raised.value)


def test_an_evaluation_skips_nothing(scene):
    scene.cfg.skip_unreadable_images = True
    check_data(scene.cfg, [])
    assert scene.trained.pipeline[0].ignore_empty
    assert 'ignore_empty' not in scene.validated.pipeline[0]
    for path in Path(scene.root, 'val').glob('*.jpg'):
        path.write_bytes(b'')
    with pytest.raises(ImageFileError, match=r'v0.jpg is not usable as an image: it is empty'):
        DATASETS.build(scene.validated)[0]


def test_a_size_that_differs_is_said_once(tmp_path, warnings):
    load = SwinPosLoadImageFromFile()
    for name, size in (('right', (WIDTH, HEIGHT)), ('swapped', (HEIGHT, WIDTH)), ('unsaid', (9, 8))):
        Image.new('RGB', size, 'grey').save(tmp_path / f'{name}.png')
    said = dict(height=HEIGHT, width=WIDTH)
    for _ in range(2):
        for name, more in (('right', said), ('swapped', said), ('unsaid', {})):
            found = load(dict(img_path=str(tmp_path / f'{name}.png'), **more))
            assert found['img'].shape[:2] == found['ori_shape']
    assert warnings() == [f'{tmp_path}/swapped.png is 60 x 80 (width x height), and its annotation file says 80 x 60: '
                          'boxes and masks are misplaced']
