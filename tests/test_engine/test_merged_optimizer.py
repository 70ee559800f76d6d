"""Merged parameter groups: the same weights, state, schedules and checkpoints as one group for each parameter."""
from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import LinearLR, build_optim_wrapper
from torch import nn

from swin_pos_det.engine import MergedOptimizerHook
from swin_pos_det.engine.merged_optimizer import (
    choose_implementation,
    merge_groups,
    prepare_fused_step,
    use_merged_groups,
)
from swin_pos_det.errors import SettingError
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2

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
    merged = [group for group, _ in merge_groups(optimizer.param_groups)]
    assert len(optimizer.param_groups) == 8
    assert [len(group['params']) for group in merged] == [3, 3, 1, 1]
    assert merged[0]['params'][1] is model[1].weight
    merged[0]['params'].clear()
    assert len(optimizer.param_groups[0]['params']) == 1


def test_a_group_with_a_setting_of_another_kind_stays_by_itself():
    model, optimizer = make('AdamW')
    for group in optimizer.param_groups[:2]:
        group['lr'] = torch.tensor(1e-2)
    assert [len(group['params']) for group, _ in merge_groups(optimizer.param_groups)] == [1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize('name', OPTIMIZERS)
@pytest.mark.parametrize('implementation', ['default', 'foreach'])
def test_weights_and_checkpoints_are_the_same_bit_for_bit(name, implementation):
    (plain, theirs), (model, ours) = make(name), make(name)
    use_merged_groups(ours, implementation=choose_implementation(ours, implementation))
    for each, optimizer in ((plain, theirs), (model, ours)):
        train(each, optimizer, range(6))
    assert torch.equal(weights(plain), weights(model))
    mine, expected = ours.state_dict(), theirs.state_dict()
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
    seen = []
    use_merged_groups(optimizer, implementation='foreach')
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.extend((group['foreach'], group['fused']) for group in optimizer.param_groups))
    optimizer.step()
    assert set(seen) == {(True, False)}
    assert {(group['foreach'], group['fused']) for group in optimizer.param_groups} == {(None, None)}
    adamax = torch.optim.Rprop([nn.Parameter(torch.ones(1))])
    assert choose_implementation(adamax, 'auto') == 'default'
    with pytest.raises(SettingError, match="Rprop.*has no 'fused' implementation.*it has foreach, auto, default"):
        choose_implementation(adamax, 'fused')
    with pytest.raises(SettingError, match="implementation must be one of.*got 'quick'"):
        MergedOptimizerHook(implementation='quick')


class Counting(torch.optim.SGD):
    """Counts in its groups and adapts its learning rate, as schedule-free and D-adapting optimizers do."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group['steps'] = group.get('steps', 0) + 1
            group['lr'] *= 0.5


def test_what_an_optimizer_writes_into_its_groups_stays():
    (plain, _), (model, _) = make('SGD'), make('SGD')
    theirs, ours = (Counting([dict(params=[each]) for each in net.parameters()], lr=0.01) for net in (plain, model))
    use_merged_groups(ours)
    for each, optimizer in ((plain, theirs), (model, ours)):
        train(each, optimizer, range(3), schedule=False)
    assert torch.equal(weights(plain), weights(model))
    assert ours.state_dict() == theirs.state_dict()
    assert {group['steps'] for group in ours.param_groups} == {3}


def swin(version: str) -> nn.Module:
    settings = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), window_size=4)
    return nn.ModuleDict(dict(backbone={'V1': SwinPosTransformer, 'V2': SwinPosTransformerV2}[version](**settings)))


@pytest.mark.parametrize('version', ['V1', 'V2'])
@pytest.mark.parametrize('optimizer', ['AdamW', 'SGD'])
@pytest.mark.parametrize('decay', [False, True])
def test_groups_of_swin_detectors(version, optimizer, decay):
    """Each parameter keeps its settings, in far fewer groups; layer decay has a learning rate for each layer."""
    paramwise = dict(norm_decay_mult=0., custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.)))
    cfg = dict(type='OptimWrapper', optimizer=dict(type=optimizer, lr=0.1, weight_decay=0.05), paramwise_cfg=paramwise)
    if decay:
        cfg.update(constructor='SwinLayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_rate=0.9))
    torch.manual_seed(0)
    models = [swin(version) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    wrappers = [build_optim_wrapper(model, cfg) for model in models]
    groups = wrappers[1].optimizer.param_groups
    merged = merge_groups(groups)
    assert decay or len(groups) > 30 and len(merged) <= 3
    use_merged_groups(wrappers[1].optimizer)
    for step in range(2):
        for model, wrapper in zip(models, wrappers):
            torch.manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            wrapper.step()
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in models)))
    assert wrappers[0].state_dict()['param_groups'] == wrappers[1].state_dict()['param_groups']


def test_a_fused_step_goes_on_from_steps_counted_by_another_implementation():
    model, optimizer = make('AdamW')
    train(model, optimizer, range(1), schedule=False)
    for state in optimizer.state.values():
        state['step'] = state['step'].double()
    prepare_fused_step(optimizer)
    assert {state['step'].dtype for state in optimizer.state.values()} == {torch.float32}
    assert optimizer._step_supports_amp_scaling is True


def test_a_fused_step_differs_by_rounding_only():
    (plain, theirs), (model, ours) = make('AdamW'), make('AdamW')
    if choose_implementation(ours, 'auto') != 'fused':
        pytest.skip('this torch has no fused AdamW on a CPU')
    prepare_fused_step(ours)
    use_merged_groups(ours, implementation='fused')
    for each, optimizer in ((plain, theirs), (model, ours)):
        train(each, optimizer, range(6))
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)
