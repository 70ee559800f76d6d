"""Every odd setting of the table ends in the line that is written there."""
from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image

from swin_pos_det.data import make_digits_on_photos
from tests.test_tools.conftest import ROOT, load_tool

from .odd_settings import NANO, ODD_SETTINGS

SMALL = """
_base_ = '{root}/configs/swin_pos/{nano}'
recipe = dict(num_train=2, num_val=1, data_root='{digits}')
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=recipe)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=recipe)
test_dataloader = val_dataloader
"""
# The packages whose absence is what a row is about.
PACKAGES = {'package of a transform': 'albumentations', 'package of a visualizer': 'dvclive'}


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return make_digits_on_photos(tmp_path_factory.mktemp('odd') / 'digits', num_train=2, num_val=1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, digits):
    """Return a folder with the files that the table names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr('logging.raiseExceptions', False)  # loggers of earlier tests write to streams that are closed
    torch.save({'state_dict': {'w': torch.ones(3)}}, 'weights.pth')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save('whole.png')
    Path('cut.png').write_bytes(Path('whole.png').read_bytes()[:-3000])


@pytest.mark.parametrize('odd', ODD_SETTINGS, ids=lambda odd: odd.name)
def test_an_odd_setting_is_one_line(odd, digits, capsys, caplog):
    if PACKAGES.get(odd.name) and importlib.util.find_spec(PACKAGES[odd.name]):
        pytest.skip(f'{PACKAGES[odd.name]} is installed')
    Path('odd.py').write_text(SMALL.format(root=ROOT, nano=NANO, digits=digits))
    Path('config.py').write_text(f"_base_ = 'odd.py'\n{odd.config}\n")
    arguments = ['config.py' if argument == 'CONFIG' else argument for argument in odd.arguments]
    if odd.tool == 'train.py':
        arguments = ['config.py', '--work-dir', 'run', *arguments]
    if odd.options:
        arguments += ['--cfg-options', *odd.options]
    says = odd.says.replace('DATA', str(digits))
    tool = load_tool(odd.tool)
    MMLogger.get_current_instance().addHandler(caplog.handler)  # that of warnings before a runner is built
    if odd.how == 'usage':
        with pytest.raises(SystemExit) as stop:
            tool.get_parser().parse_args(arguments)
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
        return
    status = tool.main(arguments) if hasattr(tool, 'main') else tool.run_cli(tool.run, tool.get_parser(), arguments)
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith('error: ')]
    if odd.how == 'warning':
        assert (status, errors) == (0, [])
        assert any(says in line for line in (out + caplog.text).splitlines() if 'WARNING' in line)
    else:
        assert status == 1
        assert len(errors) == 1 and says in errors[0]
        assert 'Traceback' not in err


def test_the_table_is_complete():
    assert len(ODD_SETTINGS) >= 50
    assert len({odd.name for odd in ODD_SETTINGS}) == len(ODD_SETTINGS)
    assert {odd.how for odd in ODD_SETTINGS} == {'error', 'usage', 'warning'}
    assert {odd.mmdet for odd in ODD_SETTINGS} == {'traceback', 'late', 'silent', 'no such tool', 'no such flag'}
