"""browse_dataset.py: training images after augmentation, drawn into contact sheets."""
from __future__ import annotations

from pathlib import Path

import pytest

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


def test_the_same_seed_gives_the_same_pictures(tool):
    read = lambda: [path.read_bytes() for path in sorted(Path('work_dirs/config/browse').iterdir())]  # noqa: E731
    seen = []
    for seed, number in ((3, 8), (3, 8), (4, 8), (3, 2)):
        assert tool.main(['config.py', '--seed', str(seed), '--number', str(number), '--per-sheet', '4']) == 0
        seen.append(read())
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
