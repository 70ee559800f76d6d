"""plot_position.py and ablate_position.py: their output, and one line for each error."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swin_pos_det.analysis.studies import study

from .conftest import load_tool


@pytest.fixture(scope='module')
def plot_tool():
    return load_tool('analysis_tools/plot_position.py')


@pytest.fixture(scope='module')
def ablate_tool():
    return load_tool('analysis_tools/ablate_position.py')


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return str(tmp_path / 'photo.png')


SMALL = ['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(64,64)']


@pytest.mark.slow
def test_draws_everything_without_a_checkpoint(plot_tool, nano_config, photo, tmp_path, capsys):
    folder = tmp_path / 'out'
    assert plot_tool.main([nano_config, '--image', photo, '--point', '80', '10', '--window', '9,5',
                           '--work-dir', str(folder), *SMALL]) == 0
    names = ['bias.png', *(f'bias_stage{i}.png' for i in (1, 2, 3, 4)), 'bias_windows.png', 'distance.png',
             'attention.png']
    printed = capsys.readouterr().out.split()
    assert printed[-len(names):] == [str(folder / name) for name in names]
    for name in names:
        assert np.asarray(Image.open(folder / name).convert('L'), dtype=float).std() > 5, name


@pytest.mark.parametrize('arguments, message', [
    (['--image', 'PHOTO', '--point', '90', '10'], 'the point (90, 10) is not in photo.png, which has 90 x 60 pixels'),
    (['--image', 'gone.png'], 'gone.png does not exist'),
    (['--image', 'cut.png'], 'cut.png is damaged'),
    (['--image', 'text.png'], 'text.png is no image'),
    (['gone.pth'], 'gone.pth does not exist'),
])
def test_mistakes_are_one_line(plot_tool, nano_config, photo, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path('cut.png').write_bytes(Path(photo).read_bytes()[:-3000])
    Path('text.png').write_text('no image')
    given = [photo if argument == 'PHOTO' else argument for argument in arguments]
    assert plot_tool.main([nano_config, *given, '--work-dir', str(tmp_path / 'out'), *SMALL]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and message in error


def test_ablation_runs_what_is_left_and_reports(ablate_tool, tmp_path, monkeypatch, capsys):
    calls = []

    def call(command, log, jobs):
        calls.append(command)
        folder = tmp_path / 'study' / log.parent.parent.name / log.parent.name
        if command[0] == 'train.py':
            folder.mkdir(parents=True, exist_ok=True)
            (folder / 'epoch_2.pth').touch()
            (folder / 'last_checkpoint').write_text('epoch_2.pth')
            return
        windows = command[command.index('--windows') + 1:command.index('--cfg-options')]
        scales = command[command.index('--scales') + 1:command.index('--windows')]
        rows = [dict(window=w, scale=float(s), bbox_mAP=.4, segm_mAP=.3) for s in scales for w in windows]
        out = folder / log.stem / 'sweep.json'
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(dict(rows=rows)))

    monkeypatch.setattr(study, '_call', call)
    arguments = ['--recipe', 'short', '--work-dir', str(tmp_path / 'study'), '--schemes', 'none', 'relative']
    assert ablate_tool.main([*arguments, '--seeds', '0']) == 0
    assert [command[0] for command in calls].count('train.py') == 2
    assert all('model.backbone.position=relative' in command or 'model.backbone.position=none' in command
               for command in calls), 'sweeps build the scheme too'
    calls.clear()
    assert ablate_tool.main([*arguments, '--seeds', '0', '1']) == 0
    assert [command for command in calls if command[0] == 'train.py'
            and 'randomness.seed=0' in command] == [], 'a finished training is not started again'
    assert '| none | 0.400 ± 0.000 |' in capsys.readouterr().out
    assert len(json.loads((tmp_path / 'study/ablation.json').read_text())) == 2 * 2 * 4
    assert all((tmp_path / f'study/ablation_{name}.png').is_file() for name in ('box', 'mask'))


@pytest.mark.parametrize('arguments, message', [
    (['--schemes', 'sine'], "got 'sine'"),
    (['--report-only'], 'holds no evaluation of seeds [0, 1, 2]')])
def test_ablation_mistakes_are_one_line(ablate_tool, tmp_path, capsys, arguments, message):
    assert ablate_tool.main([*arguments, '--work-dir', str(tmp_path)]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
