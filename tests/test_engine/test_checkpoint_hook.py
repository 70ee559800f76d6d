"""There is a complete checkpoint at any moment from the first on; averages start from any file."""
from __future__ import annotations

import os

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook
from mmengine.registry import METRICS

from swin_pos_det.checkpoints import AtomicLocalBackend, CheckpointError, load_checkpoint_file
from swin_pos_det.engine import CheckpointHook
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
    """A small training that keeps one checkpoint."""
    made = runner(folder, (7, 7), epochs, hook=False, val_interval=1,
                  checkpoint=dict(type=hook, max_keep_ckpts=1, **checkpoint), **(settings or {}))
    for custom in custom_hooks:
        made.register_hook(custom)
    return made


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """The checkpoints that are there whenever one is about to be written."""
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


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    make_runner(tmp_path, 1).train()

    def fail(descriptor):
        raise OSError(28, 'No space left on device')

    resumed = make_runner(tmp_path, 2, settings=dict(load_from=str(tmp_path / 'epoch_1.pth'), resume=True))
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(CheckpointError, match='epoch_2.pth cannot be written'):
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
