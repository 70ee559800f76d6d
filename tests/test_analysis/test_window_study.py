"""The study's bookkeeping: what is done is not done again, and the tables say what was measured."""
from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from swin_pos_det.analysis import window_study
from swin_pos_det.analysis.window_study import (
    SWEEPS,
    TRAININGS,
    Sweep,
    collect,
    config_of,
    finished_checkpoint,
    markdown_kept,
    markdown_over_scales,
    markdown_table,
    mean_and_spread,
    over_scales,
    plot_study,
    run_study,
)

TWO = (Sweep('fixed', ('window7', ), windows=(5, 7)),
       Sweep('fixed-between', ('window7', ), windows=(6, ), scales=(1., )))


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the tools: notes their command lines and leaves what they leave."""
    made = []

    def call(command, log, jobs):
        made.append(command)
        folder = Path(command[command.index('--work-dir') + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if command[0] == 'train.py':
            (folder / 'epoch_4.pth').touch()
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_4.pth'))
            return
        assert Path(command[2]).name == 'epoch_4.pth'
        given = {name: [] for name in ('--windows', '--scales')}
        for name, values in given.items():
            for value in command[command.index(name) + 1:]:
                if value.startswith('--'):
                    break
                values.append(value)
        seed = int(folder.parent.name[4:])
        rows = [dict(window=w, scale=float(s), bbox_mAP=int(w) / 20 + seed / 100, segm_mAP=.5)
                for s in given['--scales'] for w in given['--windows']]
        (folder / 'sweep.json').write_text(json.dumps(dict(rows=rows)))

    monkeypatch.setattr(window_study, '_call', call)
    return made


@pytest.mark.parametrize('jobs', [1, 3])
def test_trains_then_sweeps_and_does_nothing_twice(calls, tmp_path, jobs):
    rows = run_study(tmp_path, [0, 1], jobs, ['window7'], TWO)
    assert len(calls) == 6 and [call[0] for call in calls].count('train.py') == 2
    train = next(call for call in calls if call[0] == 'train.py' and 'randomness.seed=1' in call)
    assert '--resume' in train and Path(train[1]) == config_of('window7')
    assert len(rows) == 2 * (2 * 3 + 1) and {row['setting'] for row in rows} == {'fixed'}
    calls.clear()
    again = run_study(tmp_path, [0, 1], jobs, ['window7'], TWO)
    assert again == rows and 'train.py' not in [call[0] for call in calls], 'a finished training is not started again'


def test_a_training_is_finished_when_its_last_checkpoint_was_noted(tmp_path):
    assert finished_checkpoint(tmp_path, 4) is None
    (tmp_path / 'epoch_4.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    assert finished_checkpoint(tmp_path, 4) is None, 'killed while the last one was written'
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_4.pth'))
    assert finished_checkpoint(tmp_path, 4) == tmp_path / 'epoch_4.pth'


def test_a_failed_run_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(window_study, 'config_of', lambda training: config_of('window7'))
    with pytest.raises(RuntimeError, match=r"train.py failed \(.*'nonsense' is not of the form .*\), see .*train.log"):
        run_study(tmp_path, [0], 1, ['window7'], TWO, options=['x=1', 'nonsense'])


def test_every_sweep_is_of_known_trainings_and_every_config_exists():
    for sweep in SWEEPS:
        assert set(sweep.trainings) <= set(TRAININGS)
    assert all(config_of(training).is_file() for training in TRAININGS)
    names = [(training, sweep.name) for sweep in SWEEPS for training in sweep.trainings]
    assert len(set(names)) == len(names), 'two sweeps would share a folder'


ROWS = [dict(training='window7', seed=seed, setting=setting, window=window, scale=scale, bbox_mAP=ap + seed / 10)
        for seed in (0, 1, 2) for setting, window, scale, ap in [
            ('fixed', '7', .5, .2), ('fixed', '7', 1., .5), ('fixed', '7', 2., .35), ('fixed', '14', 1., .4),
            ('mmdet', 'native', 1., .3)]]


def test_mean_and_spread():
    cells = mean_and_spread(ROWS)
    mean, spread, seeds = cells['window7', 'fixed', '7', 1.]
    assert (mean, spread, seeds) == (pytest.approx(.6), pytest.approx(.1), 3)
    mean, spread, seeds = mean_and_spread(ROWS[:5])['window7', 'fixed', '14', 1.]
    assert mean == pytest.approx(.4) and math.isnan(spread) and seeds == 1


def test_markdown_table():
    assert markdown_table(ROWS, 1.).splitlines() == [
        '| trained | evaluated | 7 | 14 | native |', '|---|---|---|---|---|',
        '| window7 | fixed | 0.600 ± 0.100 | 0.500 ± 0.100 |  |', '| window7 | mmdet |  |  | 0.400 ± 0.100 |']


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


def test_collect_reads_unfinished_studies(calls, tmp_path):
    run_study(tmp_path, [0], 1, ['window7'], TWO[:1])
    assert len(collect(tmp_path, [0, 1], ['window7'], TWO)) == 6


def test_the_picture_is_drawn(tmp_path):
    plot_study(ROWS, tmp_path / 'new/study.png', [('window7', 'fixed'), ('elastic', 'fit')])
    picture = plt.imread(tmp_path / 'new/study.png')
    assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 0.05
