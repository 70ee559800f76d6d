"""tools/reproduce.py: its messages for errors, and a micro run from training to verdict."""
from __future__ import annotations

import json
from collections import OrderedDict

import pytest
from mmdet.visualization import DetLocalVisualizer

from tests.test_tools.conftest import load_tool
from tests.test_tools.test_end_to_end import CONFIG

COCO = 'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco'


@pytest.fixture(scope='module')
def tool():
    return load_tool('reproduce.py')


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    # MMEngine keeps a visualizer by its name for the life of the process, and so where it writes logs to.
    monkeypatch.setattr(DetLocalVisualizer, '_instance_dict', OrderedDict())
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def error_of(tool, capsys):

    def run(*argv):
        assert tool.main([str(argument) for argument in argv]) == 1
        error, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        return error

    return run


def test_mistakes(error_of):
    assert f'did you mean {COCO}' in error_of('mask-rcnn_swin-pos-t-p4-w7_fpn_1x')
    assert "no source of" in error_of(COCO, '--against', 'a blog')
    assert 'no figures to reproduce' in error_of('retinanet_swin-pos-t-p4-w7_fpn_1x_coco')
    error = error_of(COCO)
    assert 'data/coco does not exist' in error and 'COCO_ROOT' in error and 'zips/val2017.zip' in error
    demo = 'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits'
    assert f'no weights of {demo}: train them with --train' in error_of(demo)
    assert 'checkpoint none.pth does not exist' in error_of(demo, '--checkpoint', 'none.pth')


def test_a_part_of_coco_is_no_benchmark(error_of, coco_root, monkeypatch):
    monkeypatch.setenv('COCO_ROOT', str(coco_root))
    images = len(json.loads((coco_root / 'annotations/instances_val2017.json').read_text())['images'])
    if images == 5000:
        assert 'download https://download.openmmlab.com' in error_of(COCO)
    else:
        assert f'has {images} images and COCO val2017 5000' in error_of(COCO)


def test_the_list_tells_published_from_measured(tool, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '250')
    assert tool.main(['--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    first, = [line for line in lines if COCO in line]
    assert '42.7' in first and "published: MMDetection's model zoo" in first
    assert any('-nano-p4-w7_fpn_digits' in line and 'this project: ' in line for line in lines)


@pytest.mark.parametrize('text', ['-1', 'much', 'nan'])
def test_an_impossible_tolerance(tool, capsys, text):
    with pytest.raises(SystemExit):
        tool.main([COCO, f'--tolerance={text}'])
    assert 'must be AP points from 0 to 100' in capsys.readouterr().err


def index(tmp_path, box, mask):
    (tmp_path / 'metafile.yml').write_text(f"""
Models:
  - Name: tiny
    Config: tiny.py
    Metadata: {{Training Data: Handwritten digits on photographs}}
    Results:
      - {{Metrics: {{box AP: {box}, mask AP: {mask}}}, Record: docs/tiny.md, Setup: a setup}}
""")
    (tmp_path / 'index.yml').write_text('Import: [metafile.yml]')


@pytest.mark.slow
def test_trains_evaluates_passes_and_fails(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    (tmp_path / 'tiny.py').write_text(CONFIG.replace("['bbox', 'segm', 'proposal']", "['bbox', 'segm']"))
    index(tmp_path, 100, 100)
    run = ['tiny', '--index', 'index.yml', '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
           'model.test_cfg.rcnn.max_per_img=50']
    assert tool.main([*run, '--train']) == tool.FAILED
    output = capsys.readouterr().out
    assert 'FAIL: no source is within 0.1 AP points' in output
    assert 'The evaluation repeats what the training logged' in output

    logged = [json.loads(line) for file in (tmp_path / 'work_dirs/tiny').glob('2*/vis_data/scalars.json')
              for line in file.read_text().splitlines()]
    box, mask = (100 * next(entry[f'coco/{kind}_mAP'] for entry in logged if f'coco/{kind}_mAP' in entry)
                 for kind in ('bbox', 'segm'))
    assert tool.main([*run, '--against', 'log']) == 0
    assert 'PASS: within 0.1 AP points of log' in capsys.readouterr().out
    index(tmp_path, round(box + 0.1, 3), round(mask, 3))
    assert tool.main(run) == 0
    assert 'PASS: within 0.1 AP points of a setup (docs/tiny.md)' in capsys.readouterr().out
    index(tmp_path, round(box, 3), round(mask + 0.2, 3))
    assert tool.main(run) == tool.FAILED
    assert len(list((tmp_path / 'work_dirs/tiny').glob('2*'))) == 1, 'trained once'

    argv = [*run[:3], '--cfg-options', 'train_cfg.max_epochs=2']
    assert tool.main(argv) == 1
    assert 'is from epoch 1 of 2' in capsys.readouterr().err
