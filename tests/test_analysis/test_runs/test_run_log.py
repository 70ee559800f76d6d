"""Reading MMEngine's logs: single runs, resumed runs, killed runs, and how long they trained."""
from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from swin_pos_det.analysis.runs import ap_history, find_checkpoint, plot_curves, read_training, summarize, write_metrics
from swin_pos_det.cli.run_report import result_table

START = datetime(2026, 1, 2, 3, 4, 0)


class FakeRun:
    """Writes a run's folder as MMEngine does: epochs of ``length`` iterations, 2 s each, logged every 2."""

    def __init__(self, work_dir, name, length=5):
        self.folder = work_dir / name
        (self.folder / 'vis_data').mkdir(parents=True)
        self.length, self.now, self.log, self.scalars = length, START, [], []
        self.say('Hooks will be executed in the following order:')

    def say(self, text):
        self.log.append(f'{self.now:%Y/%m/%d %H:%M:%S} - mmengine - INFO - {text}')

    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    def begin(self, resumed_from=None):
        self.wait(30)  # set-up
        if resumed_from is not None:
            self.say(f'resumed epoch: {resumed_from // self.length}, iter: {resumed_from}')
        self.say('Checkpoints will be saved to /somewhere.')
        return self

    def epoch(self, number, stop_after=None, save=True, ap=None):
        for inner in range(1, (stop_after or self.length) + 1):
            self.wait(2)
            if inner % 2 == 0:
                step = (number - 1) * self.length + inner
                self.say(f'Epoch(train) [{number}][{inner}/{self.length}]  lr: 1.0e-03  eta: 0:00:10  time: 2.0000  '
                         'data_time: 0.1000  loss: 1.0000')
                # "time" is wrong on purpose: MMEngine averages it over a window, so it must not be summed
                self.scalars.append(dict(lr=1e-3, loss=10. / step, loss_cls=4. / step, loss_mask=6. / step, time=99.,
                                         data_time=0.1, epoch=number, iter=step, step=step))
        if stop_after is not None:
            return self
        if save:
            self.say(f'Saving checkpoint at {number} epochs')
        if ap is not None:
            self.wait(20)
            metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_50': min(1., 2 * ap), 'coco/bbox_mAP_l': -1.,
                       'coco/segm_mAP': ap / 2}
            self.say(f'Epoch(val) [{number}][10/10]    coco/bbox_mAP: {ap}')
            self.scalars.append({**metrics, 'time': 2., 'data_time': 0.1, 'step': number})
        return self

    def write(self, tail=''):
        (self.folder / f'{self.folder.name}.log').write_text('\n'.join(self.log) + '\n')
        lines = [json.dumps(entry) for entry in self.scalars]
        (self.folder / 'vis_data/scalars.json').write_text('\n'.join(lines) + '\n' + tail)


@pytest.fixture
def work_dir(tmp_path):
    (tmp_path / 'my-config.py').write_text('')
    return tmp_path


def test_one_run(work_dir):
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=0.2).epoch(2, ap=0.4).write()
    training = read_training(work_dir)
    assert [entry['iter'] for entry in training.train] == [2, 4, 7, 9]
    assert ap_history(training)['bbox_mAP'] == [(5, 0.2), (10, 0.4)]
    assert 'bbox_mAP_l' not in ap_history(training), 'no objects of that size'
    assert training.iterations == 10
    assert training.train_seconds == 2 * 10, 'set-up (30 s) and evaluations (2 x 20 s) are not training'
    assert training.wall_seconds == 30 + 20 + 40


@pytest.mark.parametrize('save', [True, False])
def test_iterations_between_the_last_line_and_the_end_of_an_epoch_count(work_dir, save):
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, save=save, ap=0.1).epoch(2, save=save, ap=0.1).write()
    assert read_training(work_dir).train_seconds == 20


def test_a_killed_run_and_its_continuation_are_one_training(work_dir):
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=0.2).epoch(2, stop_after=4).write(tail='{"lr": 0.00')
    FakeRun(work_dir, '20260102_040000').begin(resumed_from=5).epoch(2, ap=0.5).epoch(3, ap=0.4).write()
    training = read_training(work_dir)
    assert [run.folder.name for run in training.runs] == ['20260102_030400', '20260102_040000']
    assert [entry['iter'] for entry in training.train] == [2, 4, 7, 9, 12, 14]
    assert ap_history(training)['bbox_mAP'] == [(5, 0.2), (10, 0.5), (15, 0.4)]
    # iteration 5 of the first run belongs to the lost interval that the log has after it
    assert training.train_seconds == pytest.approx(30, abs=2)


def test_only_the_newest_training_counts_and_evaluations_do_not(work_dir):
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=0.9).write()
    FakeRun(work_dir, '20260103_030400').begin().epoch(1, ap=0.1).write()
    evaluation = FakeRun(work_dir, '20260104_030400')
    evaluation.scalars.append({'coco/bbox_mAP': 0.7, 'step': 0})
    evaluation.write()
    training = read_training(work_dir)
    assert [run.folder.name for run in training.runs] == ['20260103_030400']
    assert ap_history(training)['bbox_mAP'] == [(5, 0.1)]


def test_runs_that_count_iterations(work_dir):
    run = FakeRun(work_dir, '20260102_030400').begin()
    for step in (50, 100):
        run.wait(100)
        run.say(f'Iter(train) [{step:4d}/1000]  lr: 1.0e-03  time: 2.0000  loss: 1.0000')
        run.scalars.append(dict(lr=1e-3, loss=1., time=2., iter=step, step=step))
    run.scalars.append({'coco/bbox_mAP': 0.3, 'step': 100})
    run.write()
    training = read_training(work_dir)
    assert ap_history(training) == {'bbox_mAP': [(100, 0.3)]}
    assert training.train_seconds == 200


def test_without_a_text_log_the_averages_serve(work_dir):
    run = FakeRun(work_dir, '20260102_030400').begin().epoch(1)
    run.write()
    (run.folder / '20260102_030400.log').unlink()
    assert read_training(work_dir).train_seconds == 4 * 99


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_training(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='holds no logged training'):
        read_training(tmp_path)


def test_metrics(work_dir):
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=0.2).epoch(2, ap=0.5).epoch(3, ap=0.4).write()
    (work_dir / 'epoch_3.pth').write_bytes(b'x')
    (work_dir / 'last_checkpoint').write_text('/moved/away/epoch_3.pth')
    write_metrics(summarize(work_dir), work_dir / 'metrics.json')
    metrics = json.loads((work_dir / 'metrics.json').read_text())
    assert metrics['config'] == 'my-config'
    assert metrics['checkpoint'] == str(work_dir / 'epoch_3.pth')
    assert metrics['final'] == dict(bbox_mAP=0.4, bbox_mAP_50=0.8, segm_mAP=0.2)
    assert metrics['final_iteration'] == 15
    assert metrics['best']['bbox_mAP'] == dict(value=0.5, iteration=10)
    assert (metrics['iterations'], metrics['train_time_s'], metrics['wall_time_s']) == (15, 30, 120)
    assert {'torch', 'mmdet', 'mmcv', 'mmengine'} <= set(metrics['versions'])


def test_which_checkpoint(work_dir):
    assert find_checkpoint(work_dir) is None
    (work_dir / 'epoch_1.pth').write_bytes(b'')
    assert find_checkpoint(work_dir) == work_dir / 'epoch_1.pth'
    with pytest.raises(FileNotFoundError, match=r'other\.pth does not exist'):
        find_checkpoint(work_dir, 'other.pth')


@pytest.mark.parametrize('ap', [0.3, None])
def test_curves_are_drawn(work_dir, ap):
    import matplotlib.image
    FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=ap).epoch(2, ap=ap).write()
    plot_curves(read_training(work_dir), work_dir / 'curves.png', title='my-config')
    picture = matplotlib.image.imread(work_dir / 'curves.png')[..., :3]
    assert picture.shape[1] > 2 * picture.shape[0] > 500
    left, right = picture[:, :picture.shape[1] // 2], picture[:, picture.shape[1] // 2:]
    colored = [bool(((half.max(2) - half.min(2)) > 0.4).sum() > 300) for half in (left, right)]
    assert colored == [True, ap is not None], 'losses left, APs right if there are any'


def test_metrics_of_voc(work_dir):
    run = FakeRun(work_dir, '20260102_030400').begin().epoch(1, ap=0.25).epoch(2, ap=0.5)
    for entry in run.scalars:
        if 'coco/bbox_mAP' in entry:
            ap = entry['coco/bbox_mAP']
            for key in [key for key in entry if key.startswith('coco/')]:
                del entry[key]
            entry.update({'pascal_voc/mAP': ap, 'pascal_voc/AP50': ap})
    run.write()
    metrics = summarize(work_dir)
    assert metrics['final'] == dict(mAP=0.5, AP50=0.5)
    plot_curves(read_training(work_dir), work_dir / 'curves.png')
    table = result_table(metrics, [])
    rows = [list(column.cells) for column in table.columns]
    assert rows[0][:2] == ['VOC mAP', 'VOC AP50']
    assert rows[1][0] == '0.500 (best 0.500 at 10)'
