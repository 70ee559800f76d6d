"""count_window_tokens.py: its table, and one line for each error."""
from __future__ import annotations

import json

import pytest

from tests.test_tools.conftest import load_tool


@pytest.fixture
def annotations(tmp_path):
    files = {'coco.json': json.dumps(dict(images=[dict(width=640, height=427)])), 'empty.json': '{"images": []}',
             'list.json': '[1]', 'text.json': 'no'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_table(annotations, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '120')
    tool = load_tool('analysis_tools/count_window_tokens.py')
    assert tool.main([str(annotations / 'coco.json'), '--windows', '7']) == 0
    shown = capsys.readouterr().out
    assert '1 images at 1333x800' in shown and '│ yes' in shown


@pytest.mark.parametrize(('name', 'message'), [
    ('none.json', 'none.json: No such file'), ('empty.json', 'no images are in'),
    ('list.json', 'list.json is no COCO annotation file'), ('text.json', 'text.json is no COCO annotation file')])
def test_a_mistake_is_one_line(annotations, capsys, name, message):
    assert load_tool('analysis_tools/count_window_tokens.py').main([str(annotations / name)]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and message in error
