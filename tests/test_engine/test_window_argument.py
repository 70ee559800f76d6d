"""Windows on the command line."""
from __future__ import annotations

import argparse

import pytest

from swin_pos_det.engine.cli import window_size
from tests.test_tools.conftest import load_tool


@pytest.mark.parametrize(('text', 'want'), [('7', 7), ('12', 12), ('7,14', (7, 14)), ('(7, 14)', (7, 14)),
                                            ('7, 7', (7, 7)), ('global', 'global')])
def test_windows_that_can_be_typed(text, want):
    assert window_size(text, ('global', )) == want


@pytest.mark.parametrize('text', ['0', '-7', '7.5', 'True', '7,', '7,0', '7,7,7', '', 'large', '²', '7x14'])
def test_what_is_no_window(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is no window: write 7, or 7,14 for \(h, w\), or 'global'$"):
        window_size(text, ('global', ))
    with pytest.raises(argparse.ArgumentTypeError, match=r'for \(h, w\)$'):
        window_size(text)


def test_the_sweep_takes_the_configs_own_window_too():
    parse = load_tool('analysis_tools/sweep_windows.py').get_parser().parse_args
    assert parse(['c', 'p', '--windows', '5', '7,14', 'global', 'native']).windows == [5, (7, 14), 'global', None]
