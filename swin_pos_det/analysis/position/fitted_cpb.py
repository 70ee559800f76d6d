"""A continuous position bias fitted to a learned table, for comparison."""
from __future__ import annotations

import torch
from torch import Tensor

from ...layers import WindowAttention
from ...ops.windows import Pair
from .bias_plots import bias_grid, over_offsets


def fitted_cpb(grid: Tensor, window: Pair, target: Pair, position: str = 'log_cpb', steps: int = 400,
               seed: int = 0) -> Tensor:
    """Fit a continuous bias (Swin V2, section 3.3) to a learned bias, and return it at another window.

    The network is fitted by least squares to the bias at its own window, each head up to a constant, which does not
    change attention; then it is evaluated at the offsets of the other window.

    Args:
        grid: (heads, 2 h - 1, 2 w - 1) of :func:`~.bias_plots.bias_grid` at ``window``.
        window: (h, w) in tokens.
        target: the other window.
        position: 'log_cpb' or 'linear_cpb'.
        steps: of Adam.
        seed: of the network's initial weights.

    Returns:
        (heads, 2 h' - 1, 2 w' - 1) for ``target``, shifted by the same constants for comparison.
    """
    heads = grid.shape[0]
    scale = grid.std().clamp(min=1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = WindowAttention(4 * heads, heads, window, position=position)
    optimizer = torch.optim.Adam(layer.cpb_mlp.parameters(), lr=3e-3)
    middle = grid.mean((1, 2), keepdim=True)
    wanted = ((grid - middle) / scale).flatten(1)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            table = over_offsets(layer.position_bias(window), window).flatten(1)
            loss = (table - table.mean(1, keepdim=True) - wanted).square().mean()
            loss.backward()
            optimizer.step()
    own, other = bias_grid(layer, window), bias_grid(layer, target)
    return (other - own.mean((1, 2), keepdim=True)) * scale + middle
