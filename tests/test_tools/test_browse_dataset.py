"""browse_dataset.py: training images after augmentation, drawn into contact sheets."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from swin_pos_det.visualization import InstanceDrawer
from tests.test_data import folders

from .conftest import ROOT, load_tool

DATA = f"""
_base_ = '{ROOT}/configs/swin_pos/faster-rcnn_swin-pos-nano-p4-w7_fpn_coco.py'
metainfo = dict(classes={folders.CLASSES})
train_dataloader = dict(dataset=dict(
    data_root='data/', ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'),
    metainfo=metainfo, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='RandomChoiceResize', scales=[(96, 64), (192, 128), (288, 192)], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]))
model = dict(roi_head=dict(bbox_head=dict(num_classes=2)))
"""


@pytest.fixture(scope='module')
def tool():
    return load_tool('analysis_tools/browse_dataset.py')


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    folders.write_coco(Path('data'))
    Path('config.py').write_text(DATA)


@pytest.fixture
def drawn(monkeypatch):
    """Return what is drawn: images, labels, boxes and masks."""
    calls, draw = [], InstanceDrawer.draw

    def note(self, image, **given):
        calls.append((image, given))
        return draw(self, image, **given)

    monkeypatch.setattr(InstanceDrawer, 'draw', note)
    return calls


def test_annotations_follow_the_augmentation(tool, drawn, capsys):
    """Balloons are red and kites are white, in resized and flipped images too."""
    assert tool.main(['config.py', '--out', 'sheets', '--per-sheet', '5', '--seed', '1']) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ['sheets/sheet_1.png', 'sheets/sheet_2.png']
    assert len(drawn) == folders.TRAIN
    assert len({image.shape for image, _ in drawn}) > 1
    middles = set()
    for image, given in drawn:
        for label, (left, top, right, bottom), mask in zip(given['labels'], given['boxes'], given['masks']):
            x, y = int(left + right) // 2, int(top + bottom) // 2
            assert np.allclose(image[y, x], [(255, 0, 0), (255, 255, 255)][label], atol=40), 'RGB'
            assert mask.shape == image.shape[:2] and mask[y, x]
            middles.add((label, x / image.shape[1] > 0.5))
    assert middles == {(label, side) for label in (0, 1) for side in (True, False)}, 'some are flipped'
    for name in ('sheet_1.png', 'sheet_2.png'):
        assert cv2.imread(f'sheets/{name}').std() > 20


def test_the_same_seed_gives_the_same_pictures(tool):
    seen = []
    for seed, number in ((3, 8), (3, 8), (4, 8), (3, 2)):
        assert tool.main(['config.py', '--seed', str(seed), '--number', str(number), '--per-sheet', '4']) == 0
        seen.append([path.read_bytes() for path in sorted(Path('work_dirs/config/browse').iterdir())])
    assert seen[0] == seen[1] != seen[2]
    assert [len(sheets) for sheets in seen] == [2, 2, 2, 1], 'earlier sheets are removed'


@pytest.mark.parametrize('config, says', [
    (DATA + 'train_dataloader = None\ntrain_cfg = None\noptim_wrapper = None\nparam_scheduler = None\n',
     'has no train_dataloader'),
    (DATA.replace('instances_train2017', 'nothing'), 'nothing.json'),
    ("_base_ = []\ncustom_imports = dict(imports=['swin_pos_det', 'tests.test_tools.toy'])\n"
     "train_dataloader = dict(dataset=dict(type='ToyImages'))\n", 'no image with boxes'),
])
def test_other_configs_are_refused_in_one_line(tool, capsys, config, says):
    Path('config.py').write_text(config)
    assert tool.main(['config.py']) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('error: ') and says in line
