"""Merged parameter groups: the same weights, state, schedules and checkpoints as one group for each parameter."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import LinearLR
from torch import nn

from swin_pos_det.engine import MergedOptimizerHook
from swin_pos_det.engine.merged_optimizer import choose_implementation, merge_groups, use_merged_groups
from swin_pos_det.errors import SettingError

OPTIMIZERS = {'AdamW': dict(lr=1e-2), 'SGD': dict(lr=1e-2, momentum=0.9), 'Adam': dict(lr=1e-2, amsgrad=True)}


def make(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model whose parameters have a group each, of three distinct settings."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    groups = [dict(params=[parameter], weight_decay=0.1 * (parameter.dim() > 1), lr=1e-2 / (1 + (number > 5)))
              for number, parameter in enumerate(model.parameters())]
    return model, getattr(torch.optim, name)(groups, **OPTIMIZERS[name])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, schedule: bool = True) -> None:
    scheduler = LinearLR(optimizer, start_factor=0.1, end=4) if schedule else None
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_groups_of_equal_settings_are_joined_in_order():
    model, optimizer = make('AdamW')
    merged = merge_groups(optimizer.param_groups)
    assert len(optimizer.param_groups) == 8
    assert [len(group['params']) for group in merged] == [3, 3, 1, 1]
    assert merged[0]['params'][1] is model[1].weight
    merged[0]['params'].clear()
    assert len(optimizer.param_groups[0]['params']) == 1


def test_a_group_with_a_setting_of_another_kind_stays_by_itself():
    model, optimizer = make('AdamW')
    for group in optimizer.param_groups[:2]:
        group['lr'] = torch.tensor(1e-2)
    assert [len(group['params']) for group in merge_groups(optimizer.param_groups)] == [1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('implementation', ['default', 'foreach'])
def test_weights_and_checkpoints_are_the_same_bit_for_bit(name, implementation):
    (plain, theirs), (model, ours) = make(name), make(name)
    use_merged_groups(ours)
    choose_implementation(ours, implementation)
    for each, optimizer in ((plain, theirs), (model, ours)):
        train(each, optimizer, range(6))
    assert torch.equal(weights(plain), weights(model))
    mine, expected = ours.state_dict(), theirs.state_dict()
    for group in (*mine['param_groups'], *expected['param_groups']):
        group.pop('foreach'), group.pop('fused', None)
    assert mine['param_groups'] == expected['param_groups']
    assert all(torch.equal(mine['state'][i][key], value) for i, state in expected['state'].items()
               for key, value in state.items() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize('first_merged', [True, False])
def test_a_training_goes_on_from_the_others_checkpoint(first_merged):
    (whole, optimizer), (model, first), (second_model, second) = make('AdamW'), make('AdamW'), make('AdamW')
    train(whole, optimizer, range(6), schedule=False)
    use_merged_groups(first if first_merged else second)
    train(model, first, range(3), schedule=False)
    second_model.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second_model, second, range(3, 6), schedule=False)
    assert torch.equal(weights(second_model), weights(whole))


def test_a_step_that_raises_leaves_the_groups_as_they_were(monkeypatch):
    model, optimizer = make('AdamW')
    groups = optimizer.param_groups
    handles = use_merged_groups(optimizer)
    model[0].weight.grad = torch.ones(3, 3)

    def fail() -> None:
        raise RuntimeError('out of memory')

    with pytest.raises(RuntimeError, match='out of memory'):
        optimizer.step(fail)
    optimizer.step()
    assert optimizer.param_groups is groups
    for handle in handles:
        handle.remove()
    seen = []
    optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(len(optimizer.param_groups)))
    optimizer.step()
    assert seen == [8]


def test_implementations():
    _, optimizer = make('AdamW')
    assert choose_implementation(optimizer, 'default') == 'default'
    assert choose_implementation(optimizer, 'foreach') == 'foreach'
    assert {(group['foreach'], group['fused']) for group in optimizer.param_groups} == {(True, False)}
    adamax = torch.optim.Rprop([nn.Parameter(torch.ones(1))])
    assert choose_implementation(adamax, 'auto') == 'default'
    with pytest.raises(SettingError, match="Rprop.*has no 'fused' implementation.*it has foreach, auto, default"):
        choose_implementation(adamax, 'fused')
    with pytest.raises(SettingError, match="implementation must be one of.*got 'quick'"):
        MergedOptimizerHook(implementation='quick')


def test_a_fused_step_differs_by_rounding_only():
    (plain, theirs), (model, ours) = make('AdamW'), make('AdamW')
    use_merged_groups(ours)
    if choose_implementation(ours, 'auto') != 'fused':
        pytest.skip('this torch has no fused AdamW on a CPU')
    for each, optimizer in ((plain, theirs), (model, ours)):
        train(each, optimizer, range(6))
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)
