"""The kernels against the reference in float64: outputs and gradients."""
from __future__ import annotations

import pytest
import torch

from .cases import Case, errors, results

SMALL = [
    Case(1, (14, 14), (7, 7), (0, 0), heads=2, channels=32),  # interior windows only
    Case(2, (17, 23), (7, 7), (3, 3), channels=32),
    Case(1, (8, 7), (7, 7), (3, 0), channels=24),
    Case(2, (3, 5), (7, 7), (0, 0), heads=3),  # a map smaller than a window
    Case(1, (10, 13), (5, 9), (2, 4), channels=20),
    Case(1, (9, 15), (8, 8), (4, 4), channels=32),
    Case(2, (4, 5), (1, 1), (0, 0)),
    Case(3, (7, 8), (2, 3), (1, 1), heads=2),
    Case(2, (9, 10), (7, 7), (3, 3), padding='mask'),
    Case(3, (10, 9), (7, 7), (3, 3), padding='batch'),
    Case(1, (9, 10), (7, 7), (3, 3), table=False),
    Case(1, (9, 10), (7, 7), (3, 3), pad=False),
]
LARGE_HALF = Case(1, (12, 13), (12, 12), (6, 6), channels=32)
LARGE = [
    Case(1, (9, 17), (9, 15), (0, 7), channels=20),
    Case(2, (13, 12), (12, 12), (6, 0), padding='batch'),
    Case(1, (16, 17), (16, 16), (8, 8)),
]
HALF = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # two units in the last place of the largest number


@pytest.mark.parametrize('case', SMALL + LARGE, ids=str)
def test_float32(case):
    found = errors(case, torch.float32)
    assert max(found.values()) < 5e-6, found


@pytest.mark.parametrize(('case', 'dtype'), [(SMALL[1], torch.float16), (SMALL[4], torch.bfloat16),
                                             (LARGE_HALF, torch.float16), (LARGE[0], torch.bfloat16)], ids=str)
def test_half_precision(case, dtype):
    found = errors(case, dtype)
    assert max(found.values()) < HALF[dtype], found


@pytest.mark.parametrize('case', [SMALL[2], Case(1, (9, 7), (9, 9), (0, 0))], ids=str)
def test_gradients_repeat_bit_by_bit(case):
    inputs = case.inputs(torch.float32)
    weights = torch.randn(case.batch, case.size[0] * case.size[1], case.heads * case.channels)
    first, second = (results('triton', case, inputs, weights) for _ in range(2))
    assert first.keys() == second.keys() == {'qkv', 'table', 'pad', 'out'}
    assert all(torch.equal(first[key], second[key]) for key in first)
