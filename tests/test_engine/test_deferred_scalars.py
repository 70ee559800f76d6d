"""Losses that are read when they are logged: the same log, to the bit, by fewer waits for the device."""
from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils._python_dispatch import TorchDispatchMode

from swin_pos_det.engine.deferred_scalars import MAX_PENDING, DeferredHistory, PendingScalars


def hub(name: str) -> MessageHub:
    return MessageHub(name)


def values(iteration: int) -> dict:
    generator = torch.Generator().manual_seed(iteration)
    found = dict(loss=torch.rand((), generator=generator, requires_grad=True) * 3,
                 acc=torch.rand(1, generator=generator).half(), lr=0.1 / (1 + iteration), count=torch.tensor(iteration))
    if iteration % 2:
        found['odd'] = torch.rand((), generator=generator, dtype=torch.float64)
    return found


def test_histories_are_those_of_a_message_hub():
    theirs, ours, pending = hub('theirs'), hub('ours'), PendingScalars()
    for iteration in range(7):
        for name, value in values(iteration).items():
            theirs.update_scalar(name, value)
        pending.record(ours, values(iteration))
    assert list(ours.log_scalars) == list(theirs.log_scalars)
    assert [ours.log_scalars[name].behind for name in ('loss', 'acc', 'odd')] == [6, 6, 2]
    for name, history in theirs.log_scalars.items():
        mine = ours.log_scalars[name]
        assert mine.current() == history.current()
        assert mine.mean(3) == history.mean(3) and mine.max() == history.max() and mine.min(2) == history.min(2)
        for one, other in zip(mine.data, history.data):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert not isinstance(ours.log_scalars['lr'], DeferredHistory)


@pytest.mark.parametrize('copied', [copy.deepcopy, copy.copy, lambda history: pickle.loads(pickle.dumps(history))])
def test_copies_are_plain_and_complete(copied):
    ours, pending = hub('copies'), PendingScalars()
    for iteration in range(3):
        pending.record(ours, dict(loss=torch.tensor(float(iteration))))
    found = copied(ours.log_scalars['loss'])
    assert type(found) is HistoryBuffer
    assert found.data[0].tolist() == [0, 1, 2] and found.data[1].tolist() == [1, 1, 1]
    assert {type(history) for history in ours.state_dict()['log_scalars'].values()} == {HistoryBuffer}


def test_values_of_others_come_in_their_place():
    ours, pending = hub('others'), PendingScalars()
    for iteration in range(4):
        pending.record(ours, dict(loss=torch.tensor(float(iteration))))
    ours.update_scalar('loss', 9.)
    pending.record(ours, dict(loss=torch.tensor(5.)))
    assert ours.log_scalars['loss'].data[0].tolist() == [0, 1, 2, 3, 9, 5]


def test_a_tensor_that_is_written_to_later_was_copied():
    """As the outputs of a captured CUDA graph are."""
    ours, pending, static = hub('static'), PendingScalars(), torch.tensor(0.)
    for iteration in range(4):
        pending.record(ours, dict(loss=static.fill_(iteration)))
    assert ours.log_scalars['loss'].data[0].tolist() == [0, 1, 2, 3]


def test_not_too_many_are_kept_and_the_longest_history_is_kept():
    ours, pending = hub('many'), PendingScalars()
    pending.record(ours, dict(loss=torch.tensor(0.)))
    ours.log_scalars['loss'].max_length = 5
    for iteration in range(1, MAX_PENDING + 3):
        pending.record(ours, dict(loss=torch.tensor(float(iteration))))
    assert ours.log_scalars['loss'].behind == 2
    assert ours.log_scalars['loss'].data[0].tolist() == list(range(MAX_PENDING - 2, MAX_PENDING + 3))


class Reads(TorchDispatchMode):
    """Counts the numbers that are asked of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.overloadpacket.__name__ == '_local_scalar_dense'
        return function(*args, **(kwargs or {}))


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, number, mode='loss'):
        return dict(loss_cls=(self.weight * number).square().sum(), loss_box=self.weight.sum() / 3, acc=number / 7)


class Outputs(Hook):
    """Reads losses as mmdet's ``CheckInvalidLossHook`` does: they are still there."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert torch.isfinite(outputs['loss'])


def train(folder, deferred: bool, epochs: int = 2, **changes) -> tuple:
    hooks = [dict(type='DeferredScalarsHook')] * deferred
    runner = Runner(
        model=Model(), work_dir=str(folder), train_cfg=dict(by_epoch=True, max_epochs=epochs), custom_hooks=hooks,
        train_dataloader=dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
                              dataset=[dict(number=torch.tensor([float(n)])) for n in range(11)],
                              collate_fn=dict(type='default_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.)), default_scope='mmdet',
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9), randomness=dict(seed=1),
        experiment_name=str(folder), default_hooks=dict(logger=dict(type='LoggerHook', interval=4)), **changes)
    if not deferred:  # it reads a number itself, here
        runner.register_hook(Outputs())
    lines = []
    info = runner.logger.info
    runner.logger.info = lambda line, *args, **kwargs: lines.append(str(line)) or info(line, *args, **kwargs)
    runner.train()
    log = [line.split('eta')[0] + line.split('data_time')[-1][9:] for line in lines if 'Epoch(train)' in line]
    return runner, log


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('log')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        return {deferred: train(folder / str(deferred), deferred) for deferred in (False, True)}


def test_the_log_of_a_training_is_the_same(both):
    (theirs, expected), (ours, log) = both[False], both[True]
    assert log == expected and len(log) == 4 and 'grad_norm' in log[0] and 'loss_box' in log[0]
    histories = [runner.message_hub.log_scalars for runner in (theirs, ours)]
    assert list(histories[0]) == list(histories[1])
    for name in set(histories[0]) - {'train/time', 'train/data_time'}:
        np.testing.assert_array_equal(histories[1][name].data, histories[0][name].data, err_msg=name)
    assert len(histories[1]['train/grad_norm'].data[0]) == 22
    assert {type(hook) for hook in ours.hooks} >= {RuntimeInfoHook}, 'it is back'
    assert ours.optim_wrapper.clip_func is torch.nn.utils.clip_grad_norm_


def test_checkpoints_are_the_same_and_resume_both_ways(both, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    saved = [torch.load(f'{both[kind][0].work_dir}/epoch_2.pth', weights_only=False)['message_hub']['log_scalars']
             for kind in (False, True)]
    for name in set(saved[0]) - {'train/time', 'train/data_time'}:
        assert type(saved[1][name]) is HistoryBuffer
        np.testing.assert_array_equal(saved[1][name].data, saved[0][name].data)
    resumed = {kind: train(tmp_path / str(kind), kind, epochs=3, resume=True,
                           load_from=f'{both[not kind][0].work_dir}/epoch_2.pth') for kind in (False, True)}
    assert resumed[True][1] == resumed[False][1] and len(resumed[True][1]) == 2
    for name in ('train/loss', 'train/grad_norm'):
        found = [resumed[kind][0].message_hub.log_scalars[name].data[0] for kind in (False, True)]
        np.testing.assert_array_equal(*found)
        assert len(found[0]) == 33


def test_no_number_is_read_between_logs(tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    reads = {}

    class Step(Hook):
        """Counts the reads of iterations 2 and 3, in which nothing is logged."""

        priority = 'LOWEST'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 0:
                self.mode = Reads()
                self.mode.__enter__()
            elif runner.iter == 2:
                self.mode.__exit__(None, None, None)
                reads[runner.experiment_name.rsplit('_', 1)[-1]] = self.mode.number

    original = Runner.register_custom_hooks
    monkeypatch.setattr(Runner, 'register_custom_hooks',
                        lambda self, hooks: [original(self, hooks), self.register_hook(Step())])
    monkeypatch.setattr(Outputs, 'after_train_iter', Hook.after_train_iter)
    counts = []
    for deferred in (False, True):
        train(tmp_path / str(deferred), deferred, epochs=1)
        counts.append(reads.popitem()[1])
    assert counts == [2 * 5, 0], 'three losses, their sum and the norm, in each of two iterations'
