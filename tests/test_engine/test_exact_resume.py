"""A resumed training equals the one that was never interrupted, to the last bit."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from swin_pos_det.checkpoints import CheckpointError, load_checkpoint_file
from swin_pos_det.engine import random_state


@DATASETS.register_module(force=True)
class Noise(Dataset):
    """Samples that draw from all three generators, in the process that loads them."""

    metainfo: dict = {}

    def __init__(self, size=7):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return dict(batch=torch.rand(4) + index + random.random() + np.random.rand())


@METRICS.register_module(force=True)
class Mean(BaseMetric):
    """The mean of what the model returns."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)))


class TinyModel(BaseModel):
    """A few parameters, and dropout, which draws in the main process."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, batch, mode='tensor'):
        out = F.dropout(self.layer(batch), training=self.training)
        return dict(loss=out.square().mean() * 1e-2) if mode == 'loss' else [out.mean().item() + torch.rand(1).item()]


def make_runner(folder, by_epoch=True, workers=0, persistent=False, seed=0, hooks=True, end=None, checkpoint=None,
                logger=None, val_interval=2, **settings):
    """Make a training of 3 epochs of 4 iterations (7 samples, batches of 2), or 12 iterations, with evaluations."""
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    loader = dict(batch_size=2, num_workers=workers, persistent_workers=persistent, sampler=sampler,
                  dataset=dict(type='Noise'), collate_fn=dict(type='default_collate'))
    length = dict(max_epochs=end or 3) if by_epoch else dict(max_iters=end or 12)
    torch.manual_seed(0)
    settings = {**dict(
        log_level='WARNING', train_dataloader=loader,
        train_cfg=dict(by_epoch=by_epoch, val_interval=val_interval, **length),
        val_dataloader=dict(loader, num_workers=0, persistent_workers=False, sampler=dict(type='DefaultSampler')),
        val_evaluator=dict(type='Mean'), val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
                         dict(type='CosineAnnealingLR', T_max=3, by_epoch=True)]), **settings}
    return Runner(
        TinyModel(), work_dir=str(folder), default_scope='mmdet', randomness=dict(seed=seed),
        custom_hooks=[dict(type='ResumeHook'), dict(type='MissedEvaluationHook')] if hooks else [],
        default_hooks=dict(
            checkpoint={**dict(type='CheckpointHook'), **(checkpoint or dict(interval=1, by_epoch=False))},
            logger=dict(type='LoggerHook', **(logger or {}))),
        experiment_name=f'{folder}{random.getrandbits(64)}', **settings)


def state(path):
    """Return weights, optimizer state and random states of a checkpoint as one list of tensors and numbers."""
    saved = load_checkpoint_file(path)
    found = []

    def collect(value):
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                collect(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                collect(item)
        else:
            found.append(value)

    collect([saved['state_dict'], saved['optimizer'], saved['param_schedulers'], saved['resume_record']])
    return found


def assert_equal(one, other):
    one, other = state(one), state(other)
    assert len(one) == len(other) > 20
    for first, second in zip(one, other):
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """End persistent workers at once: torch would wait 5 seconds for each."""
    monkeypatch.setattr(torch.utils.data._utils, 'MP_STATUS_CHECK_INTERVAL', 0.1)


def log_of(made):
    return next(Path(made.log_dir).glob('*.log')).read_text()


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize(('workers', 'persistent'), [(0, False), (2, False), (2, True)])
def test_resumed_equals_uninterrupted(tmp_path, by_epoch, workers, persistent):
    """Within an epoch, and at its last iteration before it is counted. The seed is drawn, and the checkpoint's."""
    whole = make_runner(tmp_path / 'whole', by_epoch, workers, persistent, seed=None)
    whole.train()
    for name in ('iter_4.pth', 'iter_6.pth'):
        random.seed(99)
        np.random.seed(99)
        resumed = make_runner(tmp_path / name, by_epoch, workers, persistent, seed=None, resume=True,
                              load_from=str(tmp_path / 'whole' / name))
        resumed.train()
        assert (resumed.iter, resumed.epoch) == (whole.iter, whole.epoch)
        assert_equal(tmp_path / name / 'iter_12.pth', tmp_path / 'whole/iter_12.pth')


@pytest.mark.parametrize('workers', [0, 2])
def test_at_the_end_of_an_epoch(tmp_path, workers):
    """Saved by epoch: before the evaluation, and again after it, which draws too. Any number of workers will do."""
    by_epoch = dict(checkpoint=dict(interval=1, save_best='mean', rule='greater'))
    make_runner(tmp_path / 'whole', workers=workers, **by_epoch).train()
    for epoch in (1, 2):
        folder = tmp_path / f'from_{epoch}'
        make_runner(folder, load_from=str(tmp_path / f'whole/epoch_{epoch}.pth'), resume=True, **by_epoch).train()
        assert_equal(folder / 'epoch_3.pth', tmp_path / 'whole/epoch_3.pth')


def test_without_the_hook_they_differ(tmp_path):
    """MMEngine repeats the epoch: 14 iterations instead of 12, with other random numbers."""
    make_runner(tmp_path / 'whole', hooks=False).train()
    resumed = make_runner(tmp_path / 'on', hooks=False, load_from=str(tmp_path / 'whole/iter_6.pth'), resume=True)
    resumed.train()
    assert (resumed.iter, resumed.epoch) == (14, 3)


def test_iterations_keep_their_place_in_the_epoch(tmp_path):
    """Hooks see the batch's index in the epoch."""
    make_runner(tmp_path, end=2).train()
    seen = []
    resumed = make_runner(tmp_path, load_from=str(tmp_path / 'iter_6.pth'), resume=True)
    monitor = Hook()
    monitor.before_train_iter = lambda runner, batch_idx, data_batch: seen.append(batch_idx)
    resumed.register_hook(monitor)
    resumed.train()
    assert seen == [2, 3, 0, 1, 2, 3]


def test_nothing_that_was_seen_is_loaded_again(tmp_path, monkeypatch):
    """MMEngine's loop by iterations loads all of it."""
    make_runner(tmp_path, by_epoch=False, end=10).train()
    loaded = []
    item = Noise.__getitem__
    monkeypatch.setattr(Noise, '__getitem__', lambda self, index: loaded.append(index) or item(self, index))
    make_runner(tmp_path, by_epoch=False, load_from=str(tmp_path / 'iter_10.pth'), resume=True, val_cfg=None,
                val_dataloader=None, val_evaluator=None).train()
    assert len(loaded) == 2 * 2


def test_an_epoch_of_another_length_is_refused_within_it_only(tmp_path):
    make_runner(tmp_path, end=2).train()
    loader = dict(batch_size=3, sampler=dict(type='DefaultSampler'), dataset=Noise(),
                  collate_fn=dict(type='default_collate'))
    with pytest.raises(CheckpointError, match='after 2 of 4 iterations of an epoch, which has 3 now. Resume with'):
        make_runner(tmp_path, load_from=str(tmp_path / 'iter_6.pth'), resume=True, train_dataloader=loader).train()
    resumed = make_runner(tmp_path, load_from=str(tmp_path / 'iter_8.pth'), resume=True, train_dataloader=loader)
    resumed.train()
    assert (resumed.iter, resumed.epoch) == (11, 3)


def test_checkpoints_of_mmengine_resume_within_an_epoch_too(tmp_path):
    """Their place is known from the length that MMEngine noted; the random numbers differ, as the log says."""
    make_runner(tmp_path / 'then', hooks=False, end=2).train()
    assert 'resume_record' not in load_checkpoint_file(tmp_path / 'then/iter_6.pth')
    resumed = make_runner(tmp_path / 'on', load_from=str(tmp_path / 'then/iter_6.pth'), resume=True, log_level='INFO')
    resumed.train()
    assert (resumed.iter, resumed.epoch) == (12, 3)
    assert 'random generators are not there: the training continues with other random' in log_of(resumed)


def test_the_place_in_an_epoch_after_mmengine_has_repeated_one(tmp_path):
    """14 iterations in 3 epochs of 4: at its end an epoch is over all the same; within one the place is not known."""
    make_runner(tmp_path, hooks=False, end=2).train()
    for saved in (dict(interval=1, by_epoch=True), None):
        make_runner(tmp_path, hooks=False, checkpoint=saved, load_from=str(tmp_path / 'iter_6.pth'),
                    resume=True).train()
    for name, want in (('epoch_3.pth', 18), ('iter_14.pth', 22)):
        resumed = make_runner(tmp_path / name[:4], end=4, load_from=str(tmp_path / name), resume=True, log_level='INFO')
        resumed.train()
        assert (resumed.iter, resumed.epoch) == (want, 4)
        assert ('the epoch is repeated' in log_of(resumed)) == (want == 22)


def test_an_evaluation_is_not_made_up_for_within_an_epoch(tmp_path):
    whole = make_runner(tmp_path, val_interval=1)
    whole.train()
    resumed = make_runner(tmp_path, val_interval=1, load_from=str(tmp_path / 'iter_6.pth'), resume=True)
    seen = []
    monitor = Hook()
    monitor.after_val_epoch = lambda runner, metrics: seen.append(runner.iter)
    resumed.register_hook(monitor)
    resumed.train()
    assert seen == [8, 12]


@DATASETS.register_module(force=True)
class Shapes(Noise):
    """Tall and wide images, which are never in one batch."""

    def get_data_info(self, index):
        return dict(width=1 + index % 3, height=2)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_batch_samplers_with_a_memory(tmp_path, by_epoch):
    """Left-overs of a shape wait for a later batch. By iterations, loader workers have begun before the hook."""
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')
    loader = dict(batch_size=2, num_workers=0 if by_epoch else 2, sampler=sampler, dataset=dict(type='Shapes', size=9),
                  batch_sampler=dict(type='AspectRatioBatchSampler'), collate_fn=dict(type='default_collate'))
    last = 'iter_15.pth' if by_epoch else 'iter_12.pth'
    settings = dict(by_epoch=by_epoch, train_dataloader=loader)
    seen = {}
    for run in ('whole', 'on'):
        more = dict(load_from=str(tmp_path / 'whole/iter_7.pth'), resume=True) if run == 'on' else {}
        made = make_runner(tmp_path / run, **settings, **more)
        batches, monitor = seen.setdefault(run, []), Hook()
        monitor.before_train_iter = lambda runner, batch_idx, data_batch, batches=batches: batches.append(data_batch)
        made.register_hook(monitor)
        made.train()
    assert_equal(tmp_path / 'on' / last, tmp_path / 'whole' / last)
    assert len(seen['on']) == len(seen['whole']) - 7
    for batch, other in zip(seen['on'], seen['whole'][7:]):
        assert torch.equal(batch['batch'], other['batch'])


def test_averages_of_the_weights_go_on(tmp_path):
    for run in ('whole', 'on'):
        more = dict(load_from=str(tmp_path / 'whole/iter_6.pth'), resume=True) if run == 'on' else {}
        made = make_runner(tmp_path / run, **more)
        made.register_hook(dict(type='EMAHook', momentum=0.1))
        made.train()
    one, other = (load_checkpoint_file(tmp_path / run / 'iter_12.pth') for run in ('on', 'whole'))
    for key in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(value, other[key][name]) for name, value in one[key].items()), key


class Stream(IterableDataset):
    """Has a length and no indices."""

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(torch.rand(8, 4))


def test_streams_resume_at_the_end_of_epochs(tmp_path):
    def loader():
        return DataLoader(Stream(), batch_size=2, collate_fn=lambda items: dict(batch=torch.stack(items)))

    make_runner(tmp_path, train_dataloader=loader()).train()
    with pytest.raises(CheckpointError, match='cannot skip samples of a data set without indices: save at the end'):
        make_runner(tmp_path, train_dataloader=loader(), load_from=str(tmp_path / 'iter_6.pth'), resume=True).train()
    by_epoch = dict(checkpoint=dict(interval=1))
    make_runner(tmp_path, train_dataloader=loader(), **by_epoch).train()
    resumed = make_runner(tmp_path, train_dataloader=loader(), load_from=str(tmp_path / 'epoch_2.pth'), resume=True)
    resumed.train()
    assert resumed.iter == 12


def test_gradients_that_were_waiting_are_lost_and_it_says_so(tmp_path):
    settings = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=4))
    make_runner(tmp_path / 'whole', **settings).train()
    for iteration, lost in ((8, False), (6, True)):
        resumed = make_runner(tmp_path / str(iteration), load_from=str(tmp_path / f'whole/iter_{iteration}.pth'),
                              resume=True, log_level='INFO', **settings)
        resumed.train()
        assert ('after 2 of 4 iterations whose gradients are added up' in log_of(resumed)) == lost


def test_loaders_of_the_users_own(tmp_path):
    """A DataLoader instead of its config; torch's RandomSampler draws from the global generator."""
    for sampler in (None, DefaultSampler(Noise(), seed=3)):
        def loader(sampler=sampler):
            return DataLoader(Noise(), batch_size=2, shuffle=sampler is None, sampler=sampler)

        folder = tmp_path / str(sampler is None)
        make_runner(folder / 'whole', train_dataloader=loader()).train()
        make_runner(folder / 'on', train_dataloader=loader(), load_from=str(folder / 'whole/iter_6.pth'),
                    resume=True).train()
        assert_equal(folder / 'on/iter_12.pth', folder / 'whole/iter_12.pth')


def test_random_states(tmp_path):
    torch.save(random_state.capture(), tmp_path / 'state.pth')
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    first = draw()
    with random_state.drawing_from(1, 2):
        inner = draw()
    second = draw()
    random_state.restore(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert first == draw() and second == draw() and first != second
    with random_state.drawing_from(1, 2):
        assert inner == draw()
    with random_state.drawing_from(2, 1):
        assert not set(inner) & set(draw())


@pytest.mark.parametrize('change', [dict(random_states=[dict(python=3)]), dict(random_states=[{}]),
                                    dict(random_states=[dict(random_state.capture(), torch=torch.zeros(3))])])
def test_malformed_states_are_one_line(tmp_path, change):
    make_runner(tmp_path, end=2).train()
    saved = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    saved['resume_record'].update(change)
    torch.save(saved, tmp_path / 'bad.pth')
    with pytest.raises(CheckpointError, match='states of the random generators are malformed'):
        make_runner(tmp_path, load_from=str(tmp_path / 'bad.pth'), resume=True).train()
