"""Pretrained weights that a checkpoint overwrites are not fetched; no test here has a network."""
from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import FlexibleRunner, Runner

from swin_pos_det.checkpoints import CheckpointError, load_checkpoint_file
from tests.test_engine.test_resume import Images, TinyDetector, runner

NOWHERE = 'http://127.0.0.1:9/swin_tiny-0123abcd.pth'


@METRICS.register_module(force=True)
class Nothing(BaseMetric):
    default_prefix = 'no'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(thing=len(results))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    runner(folder, (7, 7), 1).train()
    checkpoint = load_checkpoint_file(folder / 'epoch_1.pth')
    torch.save(dict(checkpoint, param_schedulers=[]), folder / 'file.pth')  # FlexibleRunner asks for these
    return folder / 'file.pth'


class FirstWeights(Hook):
    """Notes the weights that the training starts with."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights = getattr(self, 'weights', None) or deepcopy(runner.model.backbone.state_dict())


def detector():
    model = TinyDetector((7, 7))
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=NOWHERE)
    return model


def make(kind, folder, **settings):
    loader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Images(),
                  collate_fn=dict(type='default_collate'))
    if kind is FlexibleRunner:
        settings['strategy'] = dict(type='SingleDeviceStrategy')
    return kind(
        detector(), work_dir=str(folder), train_dataloader=loader, test_dataloader=loader, test_cfg=dict(),
        test_evaluator=dict(type='Nothing'), train_cfg=dict(by_epoch=True, max_epochs=2), default_scope='mmdet',
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)), randomness=dict(seed=0),
        experiment_name=f'{folder.name}{kind.__name__}{len(settings)}', **settings)


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
@pytest.mark.parametrize('resume', [True, False])
def test_what_will_be_overwritten_is_not_fetched(trained, tmp_path, kind, resume):
    made = make(kind, tmp_path, load_from=str(trained), resume=resume)
    first = FirstWeights()
    made.register_hook(first)
    made.train()
    weights = load_checkpoint_file(trained)['state_dict']
    for name, value in first.weights.items():
        assert torch.equal(value, weights[f'backbone.{name}']), name


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_nor_for_a_test_or_the_last_checkpoint(trained, tmp_path, kind):
    assert make(kind, tmp_path, load_from=str(trained)).test() == {'no/thing': 2}
    (tmp_path / 'last_checkpoint').write_text(str(trained))
    made = make(Runner, tmp_path, resume=True)
    made.train()
    assert made.epoch == 2


@pytest.mark.parametrize('settings', [dict(), dict(resume=True)], ids=['from scratch', 'nothing to resume'])
@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_what_stays_is_fetched(tmp_path, kind, settings):
    with pytest.raises(CheckpointError, match='cannot download .*127.0.0.1:9/swin_tiny-0123abcd.pth'):
        make(kind, tmp_path, **settings).train()
