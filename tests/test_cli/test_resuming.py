"""The checkpoint that tools/train.py resumes from, and its message when it stops early."""
from __future__ import annotations

import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from swin_pos_det.checkpoints import CheckpointError, load_checkpoint_file
from swin_pos_det.cli import resuming
from swin_pos_det.errors import UserError
from tests.test_engine.test_exact_resume import make_runner
from tests.test_engine.test_restart import save_training_state

HOOKS = ['mmdet.ResumeHook', 'mmdet.MissedEvaluationHook']


@pytest.fixture
def prepared(tmp_path):
    """Return a function: settings of a config -> its resume setting and the file name of its load_from."""
    for name in ('start.pth', 'run/epoch_1.pth'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_training_state(tmp_path / name)

    def prepare(resume, settings):
        work_dir = settings.pop('work_dir', 'run')
        if settings.get('load_from'):
            settings['load_from'] = str(tmp_path / settings['load_from'])
        cfg = Config(dict(work_dir=str(tmp_path / work_dir), **settings))
        resuming.prepare_resuming(cfg, str(tmp_path / resume) if resume not in (None, 'auto') else resume)
        assert [hook['type'] for hook in cfg.custom_hooks] == HOOKS
        return bool(cfg.get('resume')), cfg.get('load_from') and cfg.load_from[len(str(tmp_path)) + 1:]

    return prepare


@pytest.mark.parametrize(('resume', 'settings', 'want'), [
    (None, dict(), (False, None)),
    (None, dict(load_from='start.pth'), (False, 'start.pth')),
    ('auto', dict(), (True, 'run/epoch_1.pth')),
    ('auto', dict(load_from='start.pth'), (True, 'run/epoch_1.pth')),
    ('auto', dict(work_dir='new'), (False, None)),
    ('auto', dict(work_dir='new', load_from='start.pth'), (False, 'start.pth')),
    ('start.pth', dict(work_dir='new'), (True, 'start.pth')),
    ('start.pth', dict(load_from='run/epoch_1.pth'), (True, 'start.pth')),
    (None, dict(resume=True), (True, 'run/epoch_1.pth')),
    (None, dict(resume=True, work_dir='new'), (False, None)),
    (None, dict(resume=True, load_from='start.pth'), (True, 'start.pth')),
])
def test_what_it_goes_on_from(prepared, resume, settings, want):
    """Jobs that are put back in the queue start with --resume from the first time on: load_from counts then."""
    assert prepared(resume, dict(settings)) == want


class At(Hook):
    """Does something before an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.action(runner)


def interrupt(runner):
    raise KeyboardInterrupt


@pytest.mark.parametrize(('iteration', 'said'), [
    (0, 'interrupted at iteration 0, before a checkpoint was saved\n'),
    (5, 'interrupted at iteration 5. To continue from {}/epoch_1.pth: python tools/train.py c.py --amp --resume\n')])
def test_control_c(tmp_path, capsys, monkeypatch, iteration, said):
    monkeypatch.setattr('sys.argv', ['tools/train.py'])
    made = make_runner(tmp_path, checkpoint=dict(interval=1))
    made.register_hook(At(iteration, interrupt))
    assert resuming.train(made, ['c.py', '--amp']) == 130
    assert capsys.readouterr().err.endswith(said.format(tmp_path))


def test_the_command_that_goes_on(monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/train.py'])
    assert resuming.resume_command(['a b.py', '--resume', 'x.pth']) == (
        "python tools/train.py 'a b.py' --resume x.pth --resume"), 'the last one counts'
    assert resuming.resume_command(['c.py', '--resume']) == 'python tools/train.py c.py --resume'


def test_a_work_dir_that_is_removed(tmp_path):
    made = make_runner(tmp_path / 'run', logger=dict(interval=1))
    made.register_hook(At(2, lambda runner: shutil.rmtree(tmp_path / 'run')))
    with pytest.raises(UserError, match=r'the work dir .*/run, or its folder \d+_\d+, was removed during the training'):
        resuming.train(made, [])


@pytest.mark.parametrize(('change', 'message'), [
    (lambda saved: saved['optimizer'].update(param_groups=[]), 'ValueError'),
    (lambda saved: saved['optimizer']['param_groups'][0].update(params=[0, 1, 2]), 'ValueError'),
    (lambda saved: saved['message_hub'].update(resumed_keys={}, log_scalars=3), "has no attribute 'items'"),
    (lambda saved: saved['optimizer']['state'][0].update(exp_avg=torch.zeros(9)), r'exp_avg of layer.weight has shape'),
    (lambda saved: saved['optimizer']['state'][0].update(exp_avg_sq='no'), r'exp_avg_sq of layer.weight is a str'),
])
def test_training_states_of_another_training(tmp_path, change, message):
    make_runner(tmp_path, end=1, checkpoint=dict(interval=1)).train()
    saved = load_checkpoint_file(tmp_path / 'epoch_1.pth')
    change(saved)
    torch.save(saved, tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError, match=message):
        resuming.train(make_runner(tmp_path, load_from=str(tmp_path / 'bad.pth'), resume=True), [])
