"""The tools as modules, so that most tests need no new process."""
from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_tool(path: str):
    spec = importlib.util.spec_from_file_location(f'tools_{Path(path).stem}', ROOT / 'tools' / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def train_tool():
    return load_tool('train.py')


@pytest.fixture(scope='session')
def test_tool():
    return load_tool('test.py')


@pytest.fixture(scope='session')
def report_tool():
    return load_tool('analysis_tools/report_run.py')


@pytest.fixture
def nano_config():
    return str(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
