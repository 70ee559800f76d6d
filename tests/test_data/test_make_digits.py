"""The command line that makes the embedded data set."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools/dataset_tools/make_digits.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('make_digits', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_makes_and_draws(tool, tmp_path, capsys):
    out, png = tmp_path / 'digits', tmp_path / 'sheet.png'
    size = ['--num-train', '3', '--num-val', '2']
    assert tool.main(['--out', str(out), *size, '--seed', '5', '--preview', str(png)]) == 0
    assert json.loads((out / 'dataset.json').read_text())['seed'] == 5
    assert len(list((out / 'train').iterdir())) == 3
    with Image.open(png) as sheet:
        assert sheet.height >= 240
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert '3/3' in printed.err  # progress


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--out', __file__], 'is a file; pass a folder'),
])
def test_mistakes_are_one_line(tool, arguments, message, capsys):
    assert tool.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1


def test_help_explains_every_flag(tool, capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(['--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in ('--out', '--num-train', '--num-val', '--seed', '--force', '--preview', '--preview-split'):
        assert flag in text
