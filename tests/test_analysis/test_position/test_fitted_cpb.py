"""A continuous bias fitted to a table is close to it where it was fitted, and smooth."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.analysis.position.bias_plots import bias_grid
from swin_pos_det.analysis.position.fitted_cpb import fitted_cpb
from swin_pos_det.layers import WindowAttention


@pytest.fixture
def grid():
    """Return a bias that falls with the distance from the query, which a network can fit well; tiny and shifted."""
    offsets = torch.arange(-4., 5.)
    distance = torch.hypot(offsets[:, None], offsets[None, :])
    return torch.stack([-0.01 * distance, 0.02 * (-distance / 3).exp()]) + 0.5


def test_fits_where_it_was_learned(grid):
    got = fitted_cpb(grid, (5, 5), (5, 5))
    assert ((got - grid).square().mean() / grid.var()).item() < 0.05
    torch.testing.assert_close(got.mean((1, 2)), grid.mean((1, 2)))


def test_goes_on_beyond(grid):
    got = fitted_cpb(grid, (5, 5), (8, 6))
    assert got.shape == (2, 15, 11)
    middle = got[0, 7]
    assert (middle[0] < middle[3] < middle[5]) and (middle[10] < middle[7] < middle[5]), 'still falls with distance'
    assert torch.equal(got, fitted_cpb(grid, (5, 5), (8, 6))), 'the same each time'


def test_leaves_the_random_state_alone(grid):
    state = torch.get_rng_state()
    fitted_cpb(grid, (5, 5), (5, 5), steps=1)
    assert torch.equal(state, torch.get_rng_state())


def test_follows_a_network_of_its_kind():
    torch.manual_seed(1)
    layer = WindowAttention(8, 2, (5, 5), position='log_cpb')
    torch.nn.init.normal_(layer.cpb_mlp[2].weight, std=0.2)
    own, other = bias_grid(layer, (5, 5)), bias_grid(layer, (7, 7))
    got = fitted_cpb(own, (5, 5), (7, 7))
    assert ((got - other).square().mean() / other.var()).item() < 0.1
