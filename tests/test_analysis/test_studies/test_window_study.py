"""The study of windows: its list of runs, and its own tables and picture."""
from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from swin_pos_det.analysis.studies.window_study import (
    SWEEPS,
    TRAININGS,
    markdown_kept,
    markdown_over_scales,
    over_scales,
    plot_study,
)


def test_every_sweep_is_of_known_trainings_and_every_config_exists():
    for sweep in SWEEPS:
        assert set(sweep.trainings) <= set(TRAININGS)
    assert all(training.config.is_file() for training in TRAININGS.values())
    names = [(training, sweep.name) for sweep in SWEEPS for training in sweep.trainings]
    assert len(set(names)) == len(names), 'two sweeps would share a folder'


ROWS = [dict(training='window7', seed=seed, setting=setting, window=window, scale=scale, bbox_mAP=ap + seed / 10)
        for seed in (0, 1, 2) for setting, window, scale, ap in [
            ('fixed', '7', .5, .2), ('fixed', '7', 1., .5), ('fixed', '7', 2., .35), ('fixed', '14', 1., .4),
            ('mmdet', 'native', 1., .3)]]


def test_average_over_scales_needs_all_of_them():
    assert over_scales(ROWS, 'window7', 'fixed', '7') == pytest.approx({0: .35, 1: .45, 2: .55})
    assert over_scales(ROWS, 'window7', 'fixed', '14') == {}


def test_markdown_over_scales_pairs_the_seeds():
    mmdet = [dict(row, setting='mmdet', window='native', bbox_mAP=row['bbox_mAP'] - .1 - row['seed'] / 100)
             for row in ROWS if row['setting'] == 'fixed' and row['window'] == '7']
    rows = [row for row in ROWS if row['setting'] == 'fixed'] + mmdet
    assert markdown_over_scales(rows).splitlines()[2:] == [
        '| window7 | fixed | 7 | 0.450 ± 0.100 | +0.110 ± 0.010 | 3 |',
        '| window7 | mmdet | native | 0.340 ± 0.090 | +0.000 ± 0.000 | 3 |']


def test_markdown_kept_is_of_the_same_seed():
    rows = [dict(training='elastic', seed=seed, setting='fixed', window=window, scale=1., bbox_mAP=ap)
            for seed, native in ((0, .5), (1, .8)) for window, ap in (('7', native), ('14', .9 * native))]
    assert markdown_kept(rows, 'elastic', 'fixed').splitlines() == [
        '| elastic, fixed | 7 | 14 |', '|---|---|---|', '| % of its AP at window 7 | 100.0 ± 0.0 | 90.0 ± 0.0 |']
    assert markdown_kept(rows[:2], 'elastic', 'fixed').splitlines()[2] == '| % of its AP at window 7 | 100.0 | 90.0 |'


def test_the_picture_is_drawn(tmp_path):
    plot_study(ROWS, tmp_path / 'new/study.png', [('window7', 'fixed'), ('elastic', 'fit')])
    picture = plt.imread(tmp_path / 'new/study.png')
    assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 0.05
