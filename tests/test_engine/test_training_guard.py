"""A training that diverges stops with its last good checkpoint; a warm-up that outlasts the training is mentioned."""
from __future__ import annotations

import logging

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import Dataset

from swin_pos_det.engine import training_guard
from swin_pos_det.engine.training_guard import TrainingGuardHook
from swin_pos_det.errors import SettingTypeError, TrainingDivergedError


class Numbers(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(number=torch.tensor(float(index)))


@MODELS.register_module(force=True)
class Diverging(BaseModel):
    """Has losses that are not finite from the image ``at`` on, or gradients that are not."""

    def __init__(self, at=3, kind='nan', part='loss_bbox'):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.at, self.kind, self.part = at, kind, part

    def forward(self, number, mode='loss'):
        good = (self.weight * 1e-3).sum()
        bad = number.max() >= self.at
        if self.part == 'gradient':  # of the square root at 0
            return dict(loss_bbox=good + (self.weight * 0).sum().abs().sqrt() if bad else good)
        losses = dict(loss_cls=good, loss_bbox=good.clone(), acc=torch.tensor(float('nan')))
        if bad:
            losses[self.part] = losses[self.part] + float(self.kind)
        return losses


def runner(folder, **changes):
    settings = dict(
        model=dict(type='Diverging'), work_dir=str(folder), train_cfg=dict(by_epoch=True, max_epochs=1),
        train_dataloader=dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                              dataset=Numbers(), collate_fn=dict(type='default_collate')),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), default_scope='mmdet',
        custom_hooks=[dict(type='TrainingGuardHook')], experiment_name=str(folder),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=1)))
    return Runner(**{**settings, **changes})


@pytest.mark.parametrize(('model', 'message'), [
    (dict(), 'loss_bbox is nan at iteration 4 of 6; the last good checkpoint is .*iter_3.pth. Try a lower'),
    (dict(kind='inf', part='loss_cls'), 'loss_cls is inf at iteration 4 of 6'),
    (dict(at=0), 'loss_bbox is nan at iteration 1 of 6; no checkpoint was saved before'),
    (dict(part='gradient'), 'weight has 2 weights of 2 that are not finite at iteration 4 of 6; .*iter_3.pth')])
def test_a_training_that_diverges_keeps_its_last_good_checkpoint(tmp_path, model, message):
    built = runner(tmp_path, model=dict(type='Diverging', **model))
    with pytest.raises(TrainingDivergedError, match=message):
        built.train()
    kept = [path.name for path in tmp_path.glob('*.pth')]
    assert kept == ([] if model.get('at') == 0 else ['iter_3.pth'])
    assert all(torch.load(tmp_path / name, weights_only=False)['state_dict']['weight'].isfinite().all()
               for name in kept)


@pytest.mark.parametrize(('at', 'interval', 'stopped'), [(1, 3, 4), (3, 1, 5), (4, 6, 7)])
def test_losses_that_are_read_when_they_are_logged(tmp_path, at, interval, stopped):
    """It stops in the iteration after the next log, and names the one in which it happened."""
    built = runner(tmp_path, model=dict(type='Diverging', at=at),
                   custom_hooks=[dict(type='TrainingGuardHook'), dict(type='DeferredScalarsHook')],
                   default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100),
                                      logger=dict(type='LoggerHook', interval=interval)))
    with pytest.raises(TrainingDivergedError, match=f'loss_bbox is nan at iteration {at + 1} of 6'):
        built.train()
    assert built.iter + 1 == stopped


def test_it_can_go_on_and_says_nothing_of_other_numbers(tmp_path):
    runner(tmp_path / 'on', custom_hooks=[dict(type='TrainingGuardHook', allow_nonfinite=True)]).train()
    assert (tmp_path / 'on/iter_6.pth').is_file()
    runner(tmp_path / 'fine', model=dict(type='Diverging', at=9)).train()
    assert (tmp_path / 'fine/iter_6.pth').is_file(), 'acc is NaN, and no loss'
    with pytest.raises(SettingTypeError, match="must be True or False, got 'no'"):
        TrainingGuardHook('no')


def test_loss_scaling_skips_some_steps(monkeypatch):
    """A scaler leaves the weights alone, so only many losses in a row count."""
    assert not hasattr(OptimWrapper, 'loss_scaler')
    scaled = AmpOptimWrapper.__new__(AmpOptimWrapper)
    scaled.loss_scaler = None
    monkeypatch.setattr(training_guard, 'MAX_SKIPPED_STEPS', 2)
    hub = MessageHub('guard')
    built = type('Runner', (), dict(optim_wrapper=scaled, message_hub=hub, work_dir='', iter=0, max_iters=9))
    hook = TrainingGuardHook()

    def seen(value):
        hub.update_scalar('train/loss', value)
        hook.after_train_iter(built, 0, outputs=dict(loss=value))
        built.iter += 1

    for value in (float('nan'), float('nan'), 1., float('inf'), float('nan')):
        seen(value)
    with pytest.raises(TrainingDivergedError, match='loss is nan at iteration 6 of 9'):
        seen(float('nan'))


@pytest.mark.parametrize(('scheduler', 'message'), [
    (dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
     'the warm-up of lr (LinearLR, end=500) outlasts the training of 6 iterations: it gets to 0.011 times the value'),
    (dict(type='ConstantLR', factor=0.1, by_epoch=True, end=2), 'outlasts the training of 1 epochs: it gets to 0.1'),
    (dict(type='LinearLR', start_factor=0.5, by_epoch=True, end=2, convert_to_iter_based=True), 'end=12) outlasts'),
    (dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=6), None),
    (dict(type='LinearLR', start_factor=1., end_factor=0.1, by_epoch=False, end=9), None),
    (dict(type='CosineAnnealingLR', T_max=9), None)])
def test_warm_ups_that_outlast_the_training(tmp_path, caplog, scheduler, message):
    built = runner(tmp_path, model=dict(type='Diverging', at=9), param_scheduler=scheduler)
    built.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        built.train()
    found = [record.getMessage() for record in caplog.records if 'outlasts' in record.getMessage()]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
