"""A study's bookkeeping: what is done is not done again, and the tables say what was measured."""
from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from swin_pos_det.analysis.studies import study
from swin_pos_det.analysis.studies.study import (
    Sweep,
    Training,
    collect,
    config_named,
    finished_checkpoint,
    markdown_table,
    mean_and_spread,
    run_study,
    write_csv,
)

DEMO = config_named('mask-rcnn_swin-pos-nano-p4-w7_fpn_digits')
ONE = {'window7': Training(DEMO)}
TWO = (Sweep('fixed', ('window7', ), windows=(5, 7)),
       Sweep('fixed-between', ('window7', ), windows=(6, ), scales=(1., )))



@pytest.fixture
def calls(monkeypatch):
    """Replace the tools: note their command lines and leave what they leave."""
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

    monkeypatch.setattr(study, '_call', call)
    return made


@pytest.mark.parametrize('jobs', [1, 3])
def test_trains_then_sweeps_and_does_nothing_twice(calls, tmp_path, jobs):
    rows = run_study(tmp_path, [0, 1], jobs, ONE, TWO)
    assert len(calls) == 6 and [call[0] for call in calls].count('train.py') == 2
    train = next(call for call in calls if call[0] == 'train.py' and 'randomness.seed=1' in call)
    assert '--resume' in train and Path(train[1]) == DEMO
    assert len(rows) == 2 * (2 * 3 + 1) and {row['setting'] for row in rows} == {'fixed'}
    calls.clear()
    again = run_study(tmp_path, [0, 1], jobs, ONE, TWO)
    assert again == rows and 'train.py' not in [call[0] for call in calls], 'a finished training is not started again'


def test_a_folder_is_for_one_set_of_options(calls, tmp_path):
    """Trainings with other options would be resumed, or reported, as the same."""
    run_study(tmp_path, [0], 1, ONE, TWO, options=['a=1'])
    calls.clear()
    with pytest.raises(ValueError, match='seed0 is of a study with the options a=1, now a=2; choose another --work'):
        run_study(tmp_path, [1, 0], 1, ONE, TWO, options=['a=2'])
    with pytest.raises(ValueError, match='options a=1, now there are none; choose'):
        run_study(tmp_path, [0], 1, ONE, TWO)
    assert not calls
    run_study(tmp_path, [0, 1], 1, ONE, TWO, options=['a=2', 'a=1'])


def test_a_training_is_finished_when_its_last_checkpoint_was_noted(tmp_path):
    assert finished_checkpoint(tmp_path, 4) is None
    (tmp_path / 'epoch_4.pth').touch()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    assert finished_checkpoint(tmp_path, 4) is None, 'killed while the last one was written'
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_4.pth'))
    assert finished_checkpoint(tmp_path, 4) == tmp_path / 'epoch_4.pth'


def test_a_failed_run_names_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"train.py failed \(.*'nonsense' is not of the form .*\), see .*train.log"):
        run_study(tmp_path, [0], 1, ONE, TWO, options=['x=1', 'nonsense'])


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


def test_collect_reads_unfinished_studies(calls, tmp_path):
    run_study(tmp_path, [0], 1, ONE, TWO[:1])
    assert len(collect(tmp_path, [0, 1], ONE, TWO)) == 6


def test_csv_has_every_evaluation(tmp_path):
    rows = [dict(training='window7', seed=0, setting='fixed', window='7', scale=.5, bbox_mAP=.1, ms_per_image=3.),
            dict(training='window7', seed=1, setting='fixed', window='7', scale=1., bbox_mAP=.2, segm_mAP=.3)]
    write_csv(rows, tmp_path / 'study.csv')
    assert (tmp_path / 'study.csv').read_text().splitlines() == [
        'training,seed,setting,window,scale,bbox_mAP,segm_mAP', 'window7,0,fixed,7,0.5,0.1,',
        'window7,1,fixed,7,1.0,0.2,0.3']
