"""Windows and numbers on the command line."""
from __future__ import annotations

import argparse

import pytest

from swin_pos_det.cli.argument_types import count, factor, fraction, share, window_size
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


@pytest.mark.parametrize(('kind', 'right', 'wrong', 'meant'), [
    (count, ['1', '12'], ['0', '-1', '1.5', 'many', ''], 'a whole number of at least 1'),
    (factor, ['0.5', '1e3'], ['0', '-1', 'nan', 'inf', 'much'], 'a number above 0'),
    (share, ['0.5', '2e-4'], ['0', '1', '2', 'nan', 'much'], 'a number above 0 and below 1'),
    (fraction, ['0', '1', '0.3'], ['-0.1', '1.1', 'nan', 'much'], 'a number from 0 to 1')])
def test_numbers(kind, right, wrong, meant):
    assert [kind(text) for text in right] == [float(text) for text in right]
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' must be {meant}$"):
            kind(text)


@pytest.mark.parametrize(('tool', 'arguments'), [
    ('infer.py', ['c', 'p', 'photos', '--out', 'o', '--score-thr=2']),
    ('infer.py', ['c', 'p', 'photos', '--out', 'o', '--slice=31']),
    ('infer.py', ['c', 'p', 'photos', '--out', 'o', '--slice=64', '--slice-overlap=1']),
    ('infer.py', ['c', 'p', 'photos', '--out', 'o', '--batch-size=0']), ('train.py', ['c', '--ema=1']),
    ('analysis_tools/sweep_windows.py', ['c', 'p', '--scales', '1', '0']),
    ('analysis_tools/plot_position.py', ['c', '--num-images=0']),
    ('analysis_tools/ablate_position.py', ['--jobs=0']), ('analysis_tools/study_windows.py', ['--jobs=0']),
    ('analysis_tools/count_window_tokens.py', ['a', '--windows', '7', '0']),
    ('analysis_tools/compare_evaluators.py', ['a', '--copies=0']),
    ('analysis_tools/overfit_coco.py', ['--images=0']), ('analysis_tools/eval_coco.py', ['r', 'g', '--score-thr=-1']),
    ('analysis_tools/report_run.py', ['w', '--score-thr=1.5']),
    ('analysis_tools/report_run.py', ['w', '--num-images=-1']),
    ('analysis_tools/eval_coco.py', ['r', 'g', '--iou-thr=5']),
    ('analysis_tools/eval_coco.py', ['r', 'g', '--max-dets', '0', '1', '2']),
    ('dataset_tools/make_digits.py', ['--num-train=0']), ('analysis_tools/benchmark_backbone.py', ['--seconds=0']),
    ('analysis_tools/estimate_scaling.py', ['--image', '800', '0']),
    ('deployment/export_backbone.py', ['c', '--time', '0', '64'])])
def test_tools_refuse_numbers_that_cannot_be(tool, arguments, capsys):
    flag = next(argument for argument in reversed(arguments) if argument.startswith('--')).partition('=')[0]
    with pytest.raises(SystemExit) as stop:
        load_tool(tool).get_parser().parse_args(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'error: argument {flag}' in error
    assert 'must be a' in error
