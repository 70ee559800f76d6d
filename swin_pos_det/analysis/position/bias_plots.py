"""Pictures of a backbone's position: biases over offsets, and absolute embeddings.

Every picture is a PNG of its own; nothing needs a display. Bias is drawn as seen from the query: the middle is the
query itself, right of it are keys to its right. Diverging colours are centred on zero, and panels in a row share one
scale.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from ...layers import relative_position_index, resample_table, table_size
from ...ops.windows import Pair
from ...visualization import save_figure

DIVERGING = 'RdBu_r'  # colour-blind-safe, white in the middle
# One blue and one orange of Okabe and Ito's colour-blind-safe palette.
BLUE, ORANGE, GREEN = '#0072B2', '#E69F00', '#009E73'


def bias_grid(attention: nn.Module, window: Pair) -> Optional[Tensor]:
    """Return the bias of an attention layer as a picture over offsets.

    Args:
        attention: a :class:`~swin_pos_det.layers.WindowAttention` whose ``position_bias`` depends on offsets only.
        window: (h, w) in tokens.

    Returns:
        (heads, 2 h - 1, 2 w - 1), float32 on the CPU; entry ``[head, h - 1 + down, w - 1 + right]`` is added to the
        logit of a key at this offset down and right from its query. None if the layer's scheme has no bias.
    """
    with torch.no_grad():
        bias = attention.position_bias(window)
    return None if bias is None else over_offsets(bias.float().cpu(), window)


def rotation_grid(attention: nn.Module, window: Pair) -> Optional[Tensor]:
    """Return a rotary scheme as a picture over offsets: the cosine between equal contents at two places.

    A query and a key with the same content, all channels equal, are rotated by the scheme; the cosine of the angle
    between them is 1 at offset zero. A logit of equal contents is multiplied by it.

    Args, Returns:
        as :func:`bias_grid`; None if the layer's scheme rotates nothing.
    """
    heads, channels = attention.num_heads, attention.head_dims
    ones = torch.full((1, heads, window[0] * window[1], channels), channels**-0.5, device=attention.qkv.weight.device)
    with torch.no_grad():
        query, key = attention.position.rotate(attention, ones, ones, window)
    if query is ones or not query.any():
        return None
    return over_offsets((query @ key.mT)[0].float().cpu(), window)


def over_offsets(pairs: Tensor, window: Pair) -> Tensor:
    """Map (heads, N, N), equal at equal offsets, to (heads, 2 h - 1, 2 w - 1), differentiable."""
    index = relative_position_index(window).flatten().to(pairs.device)
    rows, cols = table_size(window)
    one = index.new_empty(rows * cols)  # for each offset a pair that has it
    one[index] = torch.arange(index.numel(), device=index.device)
    return pairs.flatten(1)[:, one].view(-1, rows, cols).flip(1, 2)  # the index is of query minus key


def resampled_grid(grid: Tensor, source: Pair, target: Pair, mode: str) -> Tensor:
    """Resample (heads, 2 h - 1, 2 w - 1) of :func:`bias_grid` to another window, as a learned table is resampled.

    Raises:
        ValueError: see :func:`~swin_pos_det.layers.resample_table`.
    """
    table = resample_table(grid.flip(1, 2).flatten(1).t(), source, target, mode)
    return table.t().unflatten(1, table_size(target)).flip(1, 2)


def plot_bias(rows: Sequence[Tuple[str, Tensor]], path: Path, title: str = '', max_heads: int = 32) -> None:
    """Draw biases as heat maps over offsets: a row for each layer, a column for each head.

    Args:
        rows: (label, (heads, 2 h - 1, 2 w - 1)) of :func:`bias_grid`, at least one.
        path: of the PNG.
        title: above the panels.
        max_heads: maximum of columns; further heads are left out, as the label says.
    """
    columns = min(max_heads, max(len(grid) for _, grid in rows))
    side = float(np.clip(13 / columns, 0.85, 1.7))
    figure = Figure(figsize=(1.9 + side * columns, 0.9 + (side + 0.25) * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, grid) in zip(axes, rows):
        norm = _centred([grid])
        for head, axis in enumerate(line):
            if head < len(grid):
                image = _draw_grid(axis, grid[head], norm)
                axis.set_title(f'head {head + 1}', fontsize=8)
            else:
                axis.axis('off')
        more = f'\n{columns} of {len(grid)} heads' if len(grid) > columns else ''
        line[0].set_ylabel(label + more, fontsize=9)
        colour_bar(figure, image, list(line))
    figure.supxlabel('offset of the key from the query: tokens to the right; downwards, tokens below', fontsize=9)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def plot_bias_at_windows(rows: Sequence[Tuple[str, Dict[str, Tensor]]], path: Path, title: str = '') -> None:
    """Draw biases at the learned window and at another: heat maps side by side, and a cut through their middle.

    Args:
        rows: (label, name -> (heads, 2 h - 1, 2 w - 1)) for each layer, at least one; the first grid is the learned
            one. All layers have grids of the same names. Drawn is the head whose learned bias varies most.
        path: of the PNG.
        title: above the panels.
    """
    columns = len(rows[0][1]) + 1
    figure = Figure(figsize=(2.5 * columns + 1.6, 0.7 + 2.35 * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows), columns, squeeze=False, width_ratios=[1] * (columns - 1) + [1.5])
    for number, (line, (label, grids)) in enumerate(zip(axes, rows)):
        head = int(next(iter(grids.values())).flatten(1).std(1).argmax())
        shown = {name: grid[head] for name, grid in grids.items()}
        norm = _centred(list(shown.values()))
        for axis, (name, grid) in zip(line, shown.items()):
            image = _draw_grid(axis, grid, norm)
            if number == 0:
                axis.set_title(name, fontsize=9)
        line[0].set_ylabel(f'{label}, head {head + 1}', fontsize=9)
        colour_bar(figure, image, list(line[:-1]))
        _draw_cut(line[-1], shown)
    axes[0, -1].set_title('keys in the same row as the query', fontsize=9)
    axes[-1, -1].set_xlabel('offset to the right (tokens)', fontsize=8)
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc='outside lower right', ncols=columns, fontsize=8,
                  frameon=False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_cut(axis: Any, grids: Dict[str, Tensor]) -> None:
    """Plot the middle row of each grid over the offset; the first grid, which was learned, as dots."""
    colours = [BLUE, ORANGE, GREEN, '#CC79A7', '#56B4E9']
    for number, (name, grid) in enumerate(grids.items()):
        offsets = np.arange(grid.shape[1]) - grid.shape[1] // 2
        row = grid[grid.shape[0] // 2].numpy()
        if number == 0:
            axis.plot(offsets, row, 'o', color='black', markersize=4, label=name, zorder=3)
        else:
            axis.plot(offsets, row, '-', marker='.', linewidth=1.2, color=colours[(number - 1) % len(colours)],
                      label=name)
    axis.axhline(0, color='grey', linewidth=0.6)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)


def plot_absolute(embedding: Tensor, grid: Pair, path: Path, title: str = '', side: int = 3) -> None:
    """Draw the similarity of an absolute position embedding: for some places, the cosine with every place.

    Args:
        embedding: (1, h * w, C).
        grid: (h, w).
        path: of the PNG.
        title: above the panels.
        side: places along each axis, spread evenly; at least 1.
    """
    unit = torch.nn.functional.normalize(embedding[0].detach().float().cpu(), dim=-1)
    places = [[int((2 * i + 1) * length / (2 * side)) for i in range(side)] for length in grid]
    figure = Figure(figsize=(2.1 * side + 1.2, 2.1 * side + 0.8), layout='constrained')
    axes = figure.subplots(side, side, squeeze=False)
    for line, row in zip(axes, places[0]):
        for axis, col in zip(line, places[1]):
            alike = (unit @ unit[row * grid[1] + col]).view(grid).numpy()
            image = axis.imshow(alike, cmap=DIVERGING, norm=Normalize(-1, 1), interpolation='nearest')
            axis.set(xticks=[], yticks=[])
            axis.set_title(f'row {row + 1}, column {col + 1}', fontsize=8)
    bar = colour_bar(figure, image, list(axes.flat))
    bar.set_label('cosine with the embedding of the place named', fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_grid(axis: Any, grid: Tensor, norm: Normalize) -> Any:
    """Draw one head's bias over offsets, with offsets of tokens as ticks."""
    down, right = (side // 2 for side in grid.shape)
    image = axis.imshow(grid.numpy(), cmap=DIVERGING, norm=norm, interpolation='nearest',
                        extent=(-right - .5, right + .5, down + .5, -down - .5))
    axis.set_xticks([-right, 0, right])
    axis.set_yticks([-down, 0, down])
    axis.tick_params(labelsize=7, length=2)
    return image


def _centred(grids: Sequence[Tensor]) -> Normalize:
    limit = max(float(grid.abs().max()) for grid in grids) or 1.
    return Normalize(-limit, limit)


def colour_bar(figure: Figure, image: Any, axes: List[Any], extend: str = 'neither') -> Any:
    """Add a narrow bar of ``image``'s colours beside some axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01, extend=extend)
    bar.ax.tick_params(labelsize=7)
    return bar
