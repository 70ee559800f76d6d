"""There is a complete checkpoint at any moment from the first on; averages start from any file."""
from __future__ import annotations

import os

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_file_backend
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from swin_pos_det.checkpoints import AtomicLocalBackend, CheckpointError, load_checkpoint_file
from swin_pos_det.engine import CheckpointHook
from swin_pos_det.mmengine_patches.written_files import RECORD, WrittenFiles
from tests.test_engine.test_resume import Images, TinyDetector, runner


@METRICS.register_module(force=True)
class Rising(BaseMetric):
    """A metric that gets better with each evaluation."""

    rounds = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        Rising.rounds += 1
        return dict(acc=Rising.rounds)


def evaluated():
    loader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Images(),
                  collate_fn=dict(type='default_collate'))
    return dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=dict(type='Rising'))


def make_runner(folder, epochs, hook='CheckpointHook', custom_hooks=(), settings=None, **checkpoint):
    """Return a small training that keeps one checkpoint."""
    made = runner(folder, (7, 7), epochs, hook=False, val_interval=1,
                  checkpoint={'type': hook, 'max_keep_ckpts': 1, **checkpoint}, **(settings or {}))
    for custom in custom_hooks:
        made.register_hook(custom)
    return made


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """Return the checkpoints that exist whenever one is about to be written."""
    seen, put = [], AtomicLocalBackend.put

    def note(self, obj, filepath):
        seen.append(sorted(path.name for path in tmp_path.glob('*.pth')))
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicLocalBackend, 'put', note)
    return seen


def test_it_is_the_one_that_configs_get(tmp_path):
    hooks = {type(hook) for hook in runner(tmp_path, (7, 7), 1, hook=False).hooks}
    assert CheckpointHook in hooks


@pytest.mark.parametrize(('hook', 'at_each'), [
    ('CheckpointHook', [[], ['epoch_1.pth'], ['epoch_2.pth']]),
    ('mmengine.CheckpointHook', [[], [], []])])
def test_the_old_one_goes_when_the_new_one_is_there(tmp_path, seen, hook, at_each):
    make_runner(tmp_path, 3, hook).train()
    assert seen == at_each
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_3.pth')
    saved = load_checkpoint_file(tmp_path / 'epoch_3.pth')
    assert saved['message_hub']['runtime_info']['keep_ckpt_ids'] == [3]


def test_so_does_the_best(tmp_path, seen):
    made = make_runner(tmp_path, 2, save_best='acc', settings=evaluated())
    made.train()
    old, new, last = 'best_acc_epoch_1.pth', 'best_acc_epoch_2.pth', 'epoch_2.pth'
    assert seen[-2:] == [[old, last], [old, new, last]], 'the second time to note in the last what is the best'
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['best_acc_epoch_2.pth', 'epoch_2.pth']


@METRICS.register_module(force=True)
class TwoMetrics(Rising):
    """A value that falls, and another whose values are below it."""

    def compute_metrics(self, results):
        Rising.rounds += 1
        return {'kind_x/map': 0.9 / Rising.rounds, 'other_map': 0.1 * Rising.rounds, 'map': 0.01 * Rising.rounds}


@pytest.mark.parametrize('save_best', ['auto', 'kind_x/map', 'other_map', 'map'])
def test_a_resumed_search_for_the_best_does_not_compare_different_metrics(tmp_path, monkeypatch, save_best):
    monkeypatch.setattr(Rising, 'rounds', 0)
    settings = dict(evaluated(), val_evaluator=dict(type='TwoMetrics'))
    make_runner(tmp_path, 1, save_best='kind_x/map', settings=settings).train()
    make_runner(tmp_path, 3, save_best=save_best, rule='greater',
                settings=dict(settings, load_from=str(tmp_path / 'epoch_1.pth'), resume=True)).train()
    best = sorted(path.name for path in tmp_path.glob('best_*.pth'))
    if save_best in ('auto', 'kind_x/map'):
        assert best == ['best_kind_x_map_epoch_1.pth'], 'the first is the best'
    else:
        assert best == sorted(['best_kind_x_map_epoch_1.pth', f'best_{save_best}_epoch_3.pth'])
    info = load_checkpoint_file(tmp_path / 'epoch_3.pth')['message_hub']['runtime_info']
    assert info['best_score'] == pytest.approx(dict(other_map=0.3, map=0.03).get(save_best, 0.9))


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    make_runner(tmp_path, 1).train()

    def fail(descriptor):
        raise OSError(28, 'No space left on device')

    resumed = make_runner(tmp_path, 2, settings=dict(load_from=str(tmp_path / 'epoch_1.pth'), resume=True))
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(CheckpointError, match='cannot write .*epoch_2.pth'):
        resumed.train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert load_checkpoint_file(tmp_path / 'epoch_1.pth')['meta']['epoch'] == 1


@pytest.mark.parametrize('wrap', [lambda state: state, lambda state: dict(model=state),
                                  lambda state: dict(state_dict=state), lambda state: dict(state_dict={
                                      name[9:]: weight for name, weight in state.items() if 'backbone.' in name})])
def test_an_average_starts_from_the_weights_of_any_file(tmp_path, wrap):
    """A state dict, a detector's with another key, MMEngine's, a bare backbone's."""
    weights = TinyDetector((7, 7)).state_dict()
    torch.save(wrap(weights), tmp_path / 'weights.pth')
    made = make_runner(tmp_path / 'run', 1, custom_hooks=[dict(type='EMAHook')],
                       settings=dict(load_from=str(tmp_path / 'weights.pth')))
    ema = next(hook for hook in made.hooks if isinstance(hook, EMAHook))
    ema.before_run(made)
    made.load_or_resume()
    loaded = made.model.state_dict()
    assert torch.equal(loaded['backbone.patch_embed.projection.weight'],
                       weights['backbone.patch_embed.projection.weight'])
    for name, weight in ema.ema_model.module.state_dict().items():
        assert torch.equal(weight, loaded[name]), name


# Files that a killed training leaves are removed when the next one starts.

class Killed(BaseException):
    """Stands in for a signal."""


def killing(at):
    """Return a replacement of a method that kills the training at the ``at``-th call."""
    calls = []

    def kill(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            raise Killed
        return kill.original(self, *args, **kwargs)

    return kill


@pytest.mark.parametrize(('method', 'at', 'left', 'resumed'), [
    ('_remove_requested', 3, ['epoch_1.pth', 'epoch_2.pth'], 'epoch_2.pth'),  # the first is at the start
    ('save_checkpoint', 2, ['epoch_1.pth'], 'epoch_1.pth')])
def test_checkpoints_that_a_kill_left(tmp_path, monkeypatch, method, at, left, resumed):
    owner = CheckpointHook if method == '_remove_requested' else Runner
    kill = killing(at)
    kill.original = getattr(owner, method)
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, kill)
        with pytest.raises(Killed):
            make_runner(tmp_path, 2).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == left
    (tmp_path / '.epoch_2.pth.0123abcd.tmp').touch()
    (tmp_path / '.last_checkpoint.0123abcd.tmp').touch()
    (tmp_path / '.epoch_two.pth.0123abcd.tmp').touch()
    made = make_runner(tmp_path, 3, settings=dict(resume=True))
    at_start = []
    made.register_hook(Look(tmp_path, at_start), priority='LOWEST')
    made.train()
    assert at_start == ['.epoch_two.pth.0123abcd.tmp', resumed], 'and what is none of ours stays'
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']


class Look(Hook):
    """Notes the checkpoints that are there when a training starts, and the drafts."""

    def __init__(self, folder, seen):
        self.folder, self.seen = folder, seen

    def before_train(self, runner):
        self.seen += sorted(path.name for path in self.folder.iterdir() if path.suffix in ('.pth', '.tmp'))


def test_the_best_checkpoint_that_a_kill_left(tmp_path, monkeypatch):
    """Killed when the new best one is complete and the old one still there; tools add the hook for the evaluation."""
    kill = killing(4)  # each epoch is saved, and once more to note in it which is the best
    kill.original = CheckpointHook._save_checkpoint_with_step
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointHook, '_save_checkpoint_with_step', kill)
        with pytest.raises(Killed):
            make_runner(tmp_path, 2, save_best='acc', settings=evaluated()).train()
    assert len(list(tmp_path.glob('best*.pth'))) == 2
    make_runner(tmp_path, 3, save_best='acc', custom_hooks=[dict(type='MissedEvaluationHook')],
                settings=dict(evaluated(), resume=True)).train()
    assert [path.name for path in tmp_path.glob('best*.pth')] == ['best_acc_epoch_3.pth']


def test_checkpoints_that_were_to_be_kept_are(tmp_path):
    """With another limit than before, as MMEngine has it; and those of an earlier training in the folder."""
    make_runner(tmp_path, 2, max_keep_ckpts=-1).train()
    make_runner(tmp_path, 3, settings=dict(resume=True)).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    make_runner(tmp_path, 1).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_a_damaged_record_removes_nothing(tmp_path):
    make_runner(tmp_path, 1).train()
    for content in ('', '{', '[]', '{"written": 3, "outdated": []}', 'null'):
        (tmp_path / RECORD).write_text(content)
        files = WrittenFiles(get_file_backend(str(tmp_path)), str(tmp_path))
        files.load(str(tmp_path / 'epoch_1.pth'))
        assert files.outdated() == [] and files.name_of(str(tmp_path / 'epoch_1.pth')) is None
