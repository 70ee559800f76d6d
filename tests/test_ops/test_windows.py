"""Plans against literal pictures and against the textbook order of pad, roll and partition."""
from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F

from swin_pos_det.ops.masks import MASKED_LOGIT, WindowGroup
from swin_pos_det.ops.windows import MAX_CACHED_PLANS, build_plan, window_partition, window_plan, window_reverse

CPU = torch.device('cpu')

CASES = [
    # batch, size, window, shift
    (1, (4, 4), (2, 2), (0, 0)),
    (1, (4, 4), (2, 2), (1, 1)),
    (2, (5, 7), (3, 3), (1, 1)),
    (3, (5, 7), (2, 4), (1, 2)),
    (2, (1, 1), (7, 7), (3, 3)),
    (1, (3, 2), (7, 7), (3, 3)),
    (2, (9, 4), (1, 5), (0, 2)),
    (1, (14, 21), (7, 7), (0, 0)),
]


def test_literal_shifted_windows():
    # 0 1 2      roll by 1     4 5 3   with padding -> a 4 x 4 map holds 0..8 and 7 padded slots
    # 3 4 5
    # 6 7 8
    plan = window_plan(1, (3, 3), (2, 2), (1, 1), CPU)
    held = plan.gather.clone()
    held[plan.pad_slots] = -1
    # The first window is the only one that the shift leaves whole.
    assert held.view(-1, 4).tolist() == [[4, 5, 7, 8], [-1, 3, -1, 6], [-1, -1, 1, 2], [-1, -1, -1, 0]]
    assert [group.count for group in plan.groups] == [1, 1, 1, 1]
    assert plan.groups[0].mask(torch.float32) is None
    right, below, corner = (group.mask(torch.float32)[0, 0] for group in plan.groups[1:])
    assert torch.equal(right == 0, torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, dtype=torch.bool))
    assert torch.equal(below == 0, torch.tensor([[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2, dtype=torch.bool))
    assert torch.equal(corner, MASKED_LOGIT * (1 - torch.eye(4)))


@pytest.mark.parametrize(('batch', 'size', 'window', 'shift'), CASES)
def test_partition_equals_pad_roll_cut(batch, size, window, shift):
    tokens = torch.randn(batch, size[0] * size[1], 3)
    plan = window_plan(batch, size, window, shift, CPU)
    maps = F.pad(tokens.view(batch, *size, 3), (0, 0, 0, -size[1] % window[1], 0, -size[0] % window[0]))
    maps = torch.roll(maps, (-shift[0], -shift[1]), (1, 2))
    cut = maps.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3).reshape(
        -1, window[0] * window[1], 3)
    got = window_partition(tokens.view(-1, 3), plan)
    # The plan orders windows in its own way: compare as sets, through a sort by all entries.
    assert sorted(got.flatten(1).tolist()) == sorted(cut.flatten(1).tolist())


@pytest.mark.parametrize(('batch', 'size', 'window', 'shift'), CASES)
def test_reverse_undoes_partition(batch, size, window, shift):
    tokens = torch.randn(batch * size[0] * size[1], 3)
    plan = window_plan(batch, size, window, shift, CPU)
    assert torch.equal(window_reverse(window_partition(tokens, plan, pad_value=torch.full((3, ), 9.)), plan), tokens)


@pytest.mark.parametrize(('batch', 'size', 'window', 'shift'), CASES)
def test_padding_and_masks_are_counted_right(batch, size, window, shift):
    plan = window_plan(batch, size, window, shift, CPU)
    ones = window_partition(torch.ones(batch * size[0] * size[1], 1), plan)
    padding = 0 if plan.pad_slots is None else plan.pad_slots.numel()
    assert ones.numel() - ones.sum() == padding
    assert sum(group.count for group in plan.groups) == plan.num_windows
    masks = [group.mask(torch.float32) for group in plan.groups]
    assert all(mask is None for mask in masks) == (not any(shift))
    for mask in masks:
        # Every group that is said to need a mask does, and no token is hidden from itself.
        if mask is not None:
            assert (mask < 0).any()
            assert (mask.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_fill_reaches_padding_and_gets_gradients():
    plan = window_plan(1, (1, 2), (2, 2), (0, 0), CPU)
    tokens = torch.tensor([[1.], [2.]], requires_grad=True)
    fill = torch.tensor([7.], requires_grad=True)
    windows = window_partition(tokens, plan, fill)
    assert windows.flatten().tolist() == [1, 2, 7, 7]
    (windows * torch.tensor([1., 10., 100., 1000.]).view(1, 4, 1)).sum().backward()
    assert tokens.grad.flatten().tolist() == [1, 10]
    assert fill.grad.tolist() == [1100]


def test_plan_made_in_inference_mode_serves_training():
    build_plan.cache_clear()
    with torch.inference_mode():
        window_plan(1, (3, 3), (2, 2), (1, 1), CPU)
    tokens = torch.randn(9, 1, requires_grad=True)
    window_partition(tokens, window_plan(1, (3, 3), (2, 2), (1, 1), CPU)).sum().backward()
    assert torch.equal(tokens.grad, torch.ones(9, 1))


def test_cache_is_bounded_and_shared():
    for side in range(1, MAX_CACHED_PLANS + 20):
        window_plan(1, (side, 1), (2, 2), (0, 0), CPU)
    assert build_plan.cache_info().currsize <= MAX_CACHED_PLANS
    assert window_plan(1, (4, 4), (2, 2), (1, 1), CPU) is window_plan(1, (4, 4), (2, 2), (1, 1), CPU)


def test_a_plan_lives_where_it_is_asked_for_whatever_the_default_device():
    build_plan.cache_clear()
    with torch.device('meta'):
        plan = window_plan(2, (5, 7), (3, 3), (1, 1), torch.device('cpu'))
    assert plan.gather.device == plan.inverse.device == plan.pad_slots.device == CPU
    assert plan.groups[-1].region.device == CPU
    plan = window_plan(2, (5, 7), (3, 3), (1, 1), torch.device('meta'))
    assert plan.gather.is_meta and plan.gather.shape == (2 * 6 * 9, )
    assert plan.pad_slots.numel() == 2 * (54 - 35)
    corner = plan.groups[-1]
    assert corner.count == 2 and corner.mask(torch.float32).is_meta and corner.mask(torch.float32).shape == (1, 1, 9, 9)


def test_groups_are_compared_by_identity():
    """Fields hold tensors, whose comparison is no truth value."""
    region = torch.zeros(1, 4, dtype=torch.long)
    assert WindowGroup(1, region) != WindowGroup(1, region)


def test_windows_that_need_a_mask_are_counted_without_looking():
    """The number comes from sizes; here each window is looked at."""
    rng = random.Random(0)
    for _ in range(60):
        size, window = [tuple(rng.randint(1, most) for _ in range(2)) for most in (12, 6)]
        shift = tuple(rng.randrange(side) for side in window)
        valid = tuple(tuple(rng.randint(1, side) for side in size) for _ in range(2))
        padded = [-(-length // side) * side for length, side in zip(size, window)]
        mixed = 0
        for own in valid:
            for first in itertools.product(*(range(0, length, side) for length, side in zip(padded, window))):
                kinds = set()
                for slot in itertools.product(*(range(at, at + side) for at, side in zip(first, window))):
                    place = [(s + by) % length for s, by, length in zip(slot, shift, padded)]
                    wrapped = tuple(s + by >= length for s, by, length in zip(slot, shift, padded))
                    kinds.add((wrapped, any(p >= limit for p, limit in zip(place, own))))
                mixed += len(kinds) > 1
        plan = window_plan(2, size, window, shift, CPU, True, valid)
        assert sum(group.count for group in plan.groups if group.region is not None) == mixed
        assert sum(group.count for group in plan.groups) == plan.num_windows
