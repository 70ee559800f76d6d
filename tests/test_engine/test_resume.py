"""Resuming, testing and starting from checkpoints through MMEngine's runner, at the same and at other windows."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModel
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from swin_pos_det.engine import ResumeResampledHook
from swin_pos_det.layers import resample_table, table_size
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO

TABLE = 'backbone.stages.0.blocks.1.attn.w_msa.relative_position_bias_table'
WINDOWS = [(7, 7), (12, 12), (7, 14), (14, 7)]


class Images(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(batch=torch.full((3, 32, 40), float(index)) + torch.arange(40.))


@MODELS.register_module(force=True)
class TinyDetector(BaseModel):
    """A backbone in its usual place, and a loss."""

    def __init__(self, window):
        super().__init__()
        self.backbone = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., window_size=window))
        self.neck = torch.nn.Conv2d(64, 2, 1)

    def forward(self, batch, mode='tensor'):
        out = self.neck(self.backbone(batch)[-1])
        return dict(loss=F.mse_loss(out, torch.ones_like(out))) if mode == 'loss' else [out]


def runner(folder, window, epochs, hook=True, optimizer='AdamW', val_interval=99, checkpoint=None, **settings):
    loader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Images(),
                  collate_fn=dict(type='default_collate'))
    return Runner(
        TinyDetector(window), work_dir=str(folder), train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=val_interval),
        optim_wrapper=dict(optimizer=dict(type=optimizer, lr=1e-3)), default_scope='mmdet',
        custom_hooks=[dict(type='ResumeResampledHook')] if hook else [], randomness=dict(seed=0),
        default_hooks=dict(checkpoint={**dict(type='CheckpointHook', interval=1), **(checkpoint or {})}),
        experiment_name=f'{folder.name}{window}{epochs}{hook}{optimizer}{len(settings)}', **settings)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return checkpoints of two epochs at each window."""
    files = {}
    for window in WINDOWS:
        folder = tmp_path_factory.mktemp('trained')
        runner(folder, window, 2).train()
        files[window] = str(folder / 'epoch_2.pth')
    return files


PAIRS = [((7, 7), (7, 7)), ((7, 7), (12, 12)), ((7, 7), (7, 14)), ((12, 12), (7, 7)), ((7, 14), (7, 7)),
         ((7, 14), (14, 7))]  # as many rows


@pytest.mark.parametrize(('source', 'target'), PAIRS)
def test_resumes_at_any_window(trained, tmp_path, source, target):
    saved = torch.load(trained[source], weights_only=False)
    resumed = runner(tmp_path, target, 3, load_from=trained[source], resume=True)
    before = []
    resumed.register_hook(_Peek(before), priority='LOW')
    resumed.train()
    assert (resumed.epoch, resumed.iter) == (3, 6)
    want = resample_table(saved['state_dict'][TABLE], source, target)
    torch.testing.assert_close(before[0]['table'], want, rtol=0, atol=1e-6)
    rows = table_size(target)[0] * table_size(target)[1]
    after = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    assert after['state_dict'][TABLE].shape == (rows, 2)
    assert not torch.equal(after['state_dict'][TABLE], want), 'and it goes on learning'
    steps = {float(state['step']) for state in after['optimizer']['state'].values()}
    assert steps == ({6.} if source == target else {6., 2.}), 'only resampled tables restart their averages'


class _Peek(ResumeResampledHook):
    """Notes the table after the checkpoint was loaded, before the first step."""

    def __init__(self, seen):
        self.seen = seen

    def before_train(self, runner):
        self.seen.append(dict(table=runner.model.get_parameter(TABLE).detach().clone()))


def test_without_the_hook_the_first_step_fails(trained, tmp_path):
    with pytest.raises(RuntimeError, match='size of tensor'):
        runner(tmp_path, (12, 12), 3, hook=False, load_from=trained[7, 7], resume=True).train()


@pytest.mark.parametrize(('source', 'target'), PAIRS)
def test_starts_from_weights_at_any_window(trained, tmp_path, source, target):
    """``load_from``, and what tools/test.py does with its checkpoint."""
    saved = torch.load(trained[source], weights_only=False)
    loaded = runner(tmp_path, target, 1, load_from=trained[source])
    loaded.load_or_resume()
    want = resample_table(saved['state_dict'][TABLE], source, target)
    torch.testing.assert_close(loaded.model.get_parameter(TABLE).detach(), want, rtol=0, atol=1e-6)
    assert torch.equal(loaded.model.neck.weight, saved['state_dict']['neck.weight'])


def test_the_state_of_other_optimizers_is_left_alone(tmp_path):
    """Adafactor's averages of a matrix have other shapes than the matrix."""
    if not hasattr(torch.optim, 'Adafactor'):
        pytest.skip('this torch has no Adafactor')
    name = 'TorchAdafactor' if 'TorchAdafactor' in OPTIMIZERS else 'Adafactor'
    runner(tmp_path, (7, 7), 2, optimizer=name).train()
    resumed = runner(tmp_path, (7, 7), 3, optimizer=name, load_from=str(tmp_path / 'epoch_2.pth'), resume=True)
    resumed.train()
    states = resumed.optim_wrapper.optimizer.state.values()
    assert {float(state['step']) for state in states} == {6.}
