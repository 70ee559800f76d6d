"""infer.py: what it writes, and what its exit status says."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from swin_pos_det.apis import init_detector

from .conftest import ROOT, load_tool


@pytest.fixture(scope='module')
def infer_tool():
    return load_tool('infer.py')


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    """Return a config and a checkpoint."""
    folder = tmp_path_factory.mktemp('detector')
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
    cfg.test_dataloader.dataset.pipeline[1].scale = (64, 64)
    cfg.model.test_cfg.rcnn.max_per_img = 4
    cfg.dump(str(folder / 'config.py'))
    torch.save(dict(state_dict=init_detector(cfg, device='cpu').state_dict()), folder / 'weights.pth')
    return [str(folder / 'config.py'), str(folder / 'weights.pth')]


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('photos').mkdir()
    for name, color in (('red.png', (200, 20, 20)), ('blue.png', (20, 20, 200))):
        Image.new('RGB', (80, 60), color).save(f'photos/{name}')


def test_pictures_and_json(infer_tool, detector, capsys):
    arguments = ['--out', 'found', '--score-thr', '0', '--batch-size', '2', '--window', '12', '--device', 'cpu']
    assert infer_tool.main([*detector, 'photos', *arguments]) == 0
    content = json.loads(Path('found/predictions.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['blue.png', 'red.png']
    assert sorted(path.name for path in Path('found/vis').iterdir()) == ['blue.png', 'red.png']
    assert f'{len(content["annotations"])} objects in 2 images: found/predictions.json' in capsys.readouterr().out


def test_windows(infer_tool, detector, monkeypatch):
    windows = []

    def build(cfg, checkpoint, device, window, policy):
        windows.append((window, policy))
        raise ValueError('enough')

    monkeypatch.setattr('swin_pos_det.apis.init_detector', build)
    for given in (['12'], ['7,14'], ['7', '7', '14', 'global'], ['9', '--window-policy', 'fit']):
        with pytest.raises(ValueError, match='enough'):
            infer_tool.main([*detector, 'photos', '--out', 'found', '--window', *given])
    assert windows == [(12, None), ((7, 14), None), ([7, 7, 14, 'global'], None), (9, 'fit')]


def test_tiles(infer_tool, detector, capsys):
    arguments = ['--out', 'found', '--score-thr', '0.1', '--device', 'cpu', '--no-pictures']
    assert infer_tool.main([*detector, 'photos', *arguments, '--slice', '40', '--batch-size', '4']) == 0
    first = json.loads(Path('found/predictions.json').read_text())['annotations']
    assert infer_tool.main([*detector, 'photos', *arguments, '--slice-overlap', '0.4']) == 0
    assert 'note: --slice-overlap has no effect without --slice' in capsys.readouterr().err
    whole = json.loads(Path('found/predictions.json').read_text())['annotations']
    assert len(first) > len(whole) > 0 and all(item['segmentation']['size'] == [60, 80] for item in first)


def test_half_precision(infer_tool, detector, capsys):
    for number, given in enumerate(([], ['--half'], ['--half', 'float16'])):
        arguments = ['--out', f'found{number}', '--score-thr', '0', '--no-pictures', '--device', 'cpu']
        assert infer_tool.main([*detector, 'photos', *arguments, *given]) == 0
    found = [json.loads(Path(f'found{number}/predictions.json').read_text())['annotations'] for number in range(3)]
    assert len(found[0]) == len(found[1]) == len(found[2]) > 0
    assert found[0] != found[1] != found[2] != found[0]


def test_damaged_files_are_named(infer_tool, detector, capsys):
    Path('photos/bad.jpg').write_text('no image')
    assert infer_tool.main([*detector, 'photos', '--out', 'found', '--no-pictures']) == 3
    assert 'skipped: photos/bad.jpg is no image' in capsys.readouterr().err.splitlines()
    assert len(json.loads(Path('found/predictions.json').read_text())['images']) == 2
    assert 'Exit status' in infer_tool.get_parser().format_help()


@pytest.mark.parametrize(('arguments', 'message'), [
    (['nowhere'], 'nowhere does not exist'), (['*.gif'], 'no file matches'), (['empty'], 'has no images or videos'),
    (['bad.jpg'], 'none of the inputs can be read: bad.jpg is no image'),
    (['photos', '--window', '7', '8'], 'one entry for each of the 4 stages'),
    (['photos', '--cfg-options', 'model.backbone.padding=none'], 'padding must be one of'),
    (['photos', '--cfg-options', 'model.neck.out_channels=32'], 'is not of this config')])
def test_mistakes_are_told_in_one_line(infer_tool, detector, capsys, arguments, message):
    Path('empty').mkdir()
    Path('bad.jpg').write_text('no image')
    assert infer_tool.main([*detector, *arguments, '--out', 'found']) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert message in errors[0]
    assert not Path('found').exists()


def test_devices(infer_tool, detector, capsys):
    with pytest.raises(SystemExit) as stop:
        infer_tool.main([*detector, 'photos', '--out', 'found', '--device', 'abacus'])
    assert stop.value.code == 2
    assert "cannot use 'abacus'" in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['nowhere'], ['bad.jpg'], ['photos', '--font', 'nowhere.ttf']])
def test_inputs_are_checked_before_the_model_is_built(infer_tool, detector, monkeypatch, arguments):
    Path('bad.jpg').write_text('no image')
    monkeypatch.setattr('swin_pos_det.apis.init_detector', lambda *args: pytest.fail('the model was built'))
    assert infer_tool.main([*detector, *arguments, '--out', 'found']) == 1


def test_what_is_left_out_and_skipped_is_said(infer_tool, detector, capsys):
    Path('photos/notes.txt').write_text('')
    Path('photos/bad.jpg').write_text('no image')
    assert infer_tool.main([*detector, 'photos', '--out', 'found', '--no-pictures']) == 3
    out, err = capsys.readouterr()
    assert 'note: photos: left out files whose suffix is not that of an image or video (.txt: 1)' in err
    assert 'in 2 images (skipped: 1): found/predictions.json' in out
