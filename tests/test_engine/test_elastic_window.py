"""The hook that trains one table for many windows."""
from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from mmdet.registry import HOOKS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin_pos_det.engine import ElasticWindowHook
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO


def runner_of(backbone: nn.Module) -> SimpleNamespace:
    model = nn.Module()
    model.backbone = backbone
    return SimpleNamespace(model=model, iter=0)


def windows_seen(hook: ElasticWindowHook, runner: SimpleNamespace, iterations: range) -> list:
    seen = []
    hook.before_train(runner)
    for runner.iter in iterations:
        hook.before_train_iter(runner, 0)
        seen.append(runner.model.backbone.window_size[0])
        hook.after_train_iter(runner, 0)
        assert runner.model.backbone.window_size == [(7, 7)] * 3, 'evaluation is at the nominal window'
    return seen


def test_draws_every_window_and_returns_to_the_nominal_one():
    hook = HOOKS.build(dict(type='ElasticWindowHook', windows=[5, 7, [4, 9], 14], nominal_share=0.25))
    seen = windows_seen(hook, runner_of(SwinPosTransformer(**MICRO)), range(400))
    assert set(seen) == {(5, 5), (7, 7), (4, 9), (14, 14)}
    # 7 is drawn with 1/4 + 3/4 * 1/4 = 44 %: 5 standard deviations of 400 draws are 12 %.
    assert 0.31 < seen.count((7, 7)) / 400 < 0.57


def test_a_resumed_run_draws_what_the_first_would_have():
    settings = dict(windows=[3, 5, 7, 9], seed=3)
    whole = windows_seen(ElasticWindowHook(**settings), runner_of(SwinPosTransformer(**MICRO)), range(30))
    resumed = windows_seen(ElasticWindowHook(**settings), runner_of(SwinPosTransformer(**MICRO)), range(12, 30))
    assert resumed == whole[12:]
    other = windows_seen(ElasticWindowHook(windows=[3, 5, 7, 9], seed=4), runner_of(SwinPosTransformer(**MICRO)),
                         range(30))
    assert other != whole


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(windows=[]), 'at least one window'),
    (dict(windows=[7], nominal_share=1.5), 'nominal_share must be from 0 to 1, got 1.5'),
])
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ElasticWindowHook(**settings)


def test_windows_are_a_list():
    with pytest.raises(TypeError, match=r'windows takes a list of windows, such as .*, got 12'):
        ElasticWindowHook(windows=12)


def test_a_bad_window_is_named_before_training():
    runner = runner_of(SwinPosTransformer(**MICRO))
    with pytest.raises(ValueError, match='window_size must be at least 1 on each side, got 0'):
        ElasticWindowHook(windows=[7, 0]).before_train(runner)


def test_another_backbone_is_named():
    with pytest.raises(TypeError, match='got Linear'):
        ElasticWindowHook(windows=[7]).before_train(runner_of(nn.Linear(1, 1)))


class _Wrapped(nn.Module):

    def __init__(self):
        super().__init__()
        self.backbone = SwinPosTransformer(**MICRO)

    def forward(self, x):
        return sum(out.square().mean() for out in self.backbone(x))


def _ddp_worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(_Wrapped())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    runner = SimpleNamespace(model=model, iter=0)
    hook = ElasticWindowHook(windows=[3, 5, 7, 9])
    hook.before_train(runner)
    seen = []
    for runner.iter in range(5):
        hook.before_train_iter(runner, 0)
        seen.append(model.module.backbone.window_size[0])
        torch.manual_seed(10 * runner.iter + rank)
        optimizer.zero_grad()
        model(torch.randn(1, 3, 33, 40)).backward()  # an unused parameter would make the next forward raise
        optimizer.step()
        hook.after_train_iter(runner, 0)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.save((seen, weights), f'{folder}/{rank}.pt')
    torch.distributed.barrier()
    os._exit(0)  # without clean-up, where torch may wait for gloo's thread while that waits for Python's lock


def test_two_ranks_draw_the_same_windows(tmp_path):
    mp.spawn(_ddp_worker, (str(tmp_path), ), nprocs=2)
    (seen, weights), (other_seen, other_weights) = (
        torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2))
    assert seen == other_seen and len(set(seen)) > 1
    assert torch.equal(weights, other_weights)
