"""Progress bars in a terminal, in a log file and in threads."""
from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from swin_pos_det import progress
from swin_pos_det.progress import ProgressBar, track


@pytest.fixture
def terminal(monkeypatch):
    """Let rich take standard error for a terminal."""
    make = progress.Console
    monkeypatch.setattr(progress, 'Console', lambda **kwargs: make(**kwargs, force_terminal=True, width=100))


def test_a_log_gets_one_line_at_the_end(capsys):
    seen = []
    for item in track(range(500), 'images [of a set]'):
        assert capsys.readouterr().err == ''
        seen.append(item)
    out, err = capsys.readouterr()
    assert seen == list(range(500)) and out == ''
    line, = err.splitlines()
    assert line.startswith('images [of a set]') and '500/500' in line


@pytest.mark.parametrize('options', [dict(transient=True), dict(disable=True)])
def test_a_log_gets_nothing_of_passing_bars(options, capsys):
    assert list(track([1, 2], 'images', **options)) == [1, 2]
    assert capsys.readouterr() == ('', '')


def test_a_terminal_shows_the_bar_from_the_start(terminal, capsys):
    streams = sys.stdout, sys.stderr
    with ProgressBar('study', 3) as bar:
        assert 'study' in capsys.readouterr().err
        assert (sys.stdout, sys.stderr) == streams, 'worker processes would inherit the lock of rich'
        bar.describe('study: seed1')
        bar.advance(2)
    out, err = capsys.readouterr()
    assert out == '' and 'study: seed1' in err and '2/3' in err


def test_threads_share_a_bar(capsys):
    with ProgressBar('study', 200) as bar, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: bar.advance(), range(200)))
    assert '200/200' in capsys.readouterr().err


def test_items_of_unknown_number_and_a_loop_left_early(capsys):
    items = track(iter('abc'), 'letters')
    assert next(items) == 'a'
    assert next(items) == 'b'
    items.close()
    assert '1/?' in capsys.readouterr().err
