"""Data in Pascal VOC's layout with classes of its own, which have no palette: from training to report."""
from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from mmdet.visualization import DetLocalVisualizer
from mmengine.visualization import Visualizer
from PIL import Image

from swin_pos_det.visualization.visualizer import SwinPosVisualizer

from .conftest import ROOT, load_tool

CLASSES = ('bolt', 'nut', '螺丝')
CONFIG = f"""
_base_ = '{ROOT}/configs/swin_pos/faster-rcnn_swin-pos-nano-p4-w7_fpn_coco.py'
model = dict(
    backbone=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(bbox_roi_extractor=dict(out_channels=16),
                  bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=3)),
    test_cfg=dict(rcnn=dict(score_thr=0., max_per_img=5)))
data = dict(_delete_=True, type='XMLDataset', data_root='voc', data_prefix=dict(sub_data_root=''),
            metainfo=dict(classes={CLASSES!r}))
resize = dict(type='Resize', scale=(96, 96), keep_ratio=True)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    ann_file='ImageSets/Main/train.txt', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), resize,
        dict(type='PackDetInputs')], **data))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=[
        dict(type='LoadImageFromFile'), resize, dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))],
    **data))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='area')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""
OBJECT = """<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>
<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Write a data set of three images and a config."""
    root = tmp_path_factory.mktemp('voc')
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / 'voc' / part).mkdir(parents=True)
    pixels = np.random.default_rng(0)
    for name in ('a', 'b', 'c'):
        Image.fromarray(pixels.integers(0, 255, (72, 96, 3), dtype=np.uint8)).save(root / f'voc/JPEGImages/{name}.jpg')
        objects = [OBJECT.format(name=one, x=4 + 30 * place, y=10, right=28 + 30 * place, bottom=40)
                   for place, one in enumerate(CLASSES)]
        (root / f'voc/Annotations/{name}.xml').write_text(
            '<annotation><size><width>96</width><height>72</height><depth>3</depth></size>'
            f'{"".join(objects)}</annotation>', encoding='utf-8')
    (root / 'voc/ImageSets/Main/train.txt').write_text('a\nb\n')
    (root / 'voc/ImageSets/Main/val.txt').write_text('c\n')
    (root / 'config.py').write_text(CONFIG, encoding='utf-8')
    return root


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    # MMEngine keeps a visualizer by its name for the life of the process, and so where it writes to.
    for kind in (Visualizer, DetLocalVisualizer, SwinPosVisualizer):
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(folder)


@pytest.fixture(scope='module')
def checkpoint(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(DetLocalVisualizer, '_instance_dict', OrderedDict())
        assert load_tool('train.py').main(['config.py', '--work-dir', 'run']) == 0
    return 'run/epoch_1.pth'


def test_reports(checkpoint, report_tool, capsys):
    assert report_tool.main(['run', '--num-images', '1', '--score-thr', '0']) == 0
    assert 'VOC mAP' in capsys.readouterr().out
    metrics = json.loads(Path('run/metrics.json').read_text())
    assert metrics['iterations'] == 1 and 0 <= metrics['final']['mAP'] <= 1
    picture = np.asarray(Image.open('run/predictions/c.png'))
    assert picture.shape[1] > picture.shape[0] and picture.std() > 1
    assert Path('run/curves.png').is_file() and Path('run/predictions.png').is_file()


def test_tests_and_shows(checkpoint, test_tool, capsys):
    assert test_tool.main(['config.py', checkpoint, '--work-dir', 'none', '--out', 'found.json']) == 1
    assert 'error: cannot write found.json: XMLDataset has no ids of COCO categories' in capsys.readouterr().err
    assert test_tool.main(['config.py', checkpoint, '--work-dir', 'eval', '--show-dir', 'shown',
                           '--out', 'found.pkl']) == 0
    assert [path.name for path in Path('eval').glob('*/shown/*')] == ['c.jpg']
    trained, tested = (json.loads(sorted(Path(run).glob(f'*/{name}'))[-1].read_text().splitlines()[-1])
                       for run, name in (('run', 'vis_data/scalars.json'), ('eval', '*.json')))
    assert trained['pascal_voc/mAP'] == tested['pascal_voc/mAP']


def test_infers(checkpoint):
    assert load_tool('infer.py').main(['config.py', checkpoint, 'voc/JPEGImages', '--out', 'found',
                                       '--score-thr', '0']) == 0
    content = json.loads(Path('found/predictions.json').read_text(encoding='utf-8'))
    assert [category['name'] for category in content['categories']] == list(CLASSES)
    assert len(content['images']) == 3 and len(content['annotations']) > 0
    assert sorted(path.name for path in Path('found/vis').iterdir()) == ['a.jpg', 'b.jpg', 'c.jpg']
