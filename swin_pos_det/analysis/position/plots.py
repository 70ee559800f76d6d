"""Pictures of a backbone's position: biases over offsets, attention distances, and attention of a token.

Every picture is a PNG of its own; nothing needs a display. Bias is drawn as seen from the query: the middle is the
query itself, right of it are keys to its right. Diverging colours are centred on zero, and panels in a row share one
scale.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from ...errors import SettingError
from ...layers import relative_position_index, resample_table, table_size
from ...types import Pair
from ...visualization import save_figure
from .attention_maps import BlockAttention, attended_from, attention_distance, uniform_distance, visible_from

DIVERGING = 'RdBu_r'  # colour-blind-safe, white in the middle
SEQUENTIAL = 'inferno'
# One blue and one orange of Okabe and Ito's colour-blind-safe palette.
_BLUE, _ORANGE, _GREEN = '#0072B2', '#E69F00', '#009E73'


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
        _colour_bar(figure, image, list(line))
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
        _colour_bar(figure, image, list(line[:-1]))
        _draw_cut(line[-1], shown)
    axes[0, -1].set_title('keys in the same row as the query', fontsize=9)
    axes[-1, -1].set_xlabel('offset to the right (tokens)', fontsize=8)
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc='outside lower right', ncols=columns, fontsize=8,
                  frameon=False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_cut(axis: Any, grids: Dict[str, Tensor]) -> None:
    """Plot the middle row of each grid over the offset; the first grid, which was learned, as dots."""
    colours = [_BLUE, _ORANGE, _GREEN, '#CC79A7', '#56B4E9']
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


@dataclass(frozen=True)
class BlockDistance:
    """The attention distances of a block's heads, averaged over images.

    Attributes:
        stage, block: which block, from 0.
        heads: (heads,) the :func:`~.attention_maps.attention_distance`, pixels.
        uniform: the same for uniform attention, pixels.
    """

    stage: int
    block: int
    heads: Tensor
    uniform: float


def measure_distances(images: Iterable[Sequence[BlockAttention]]) -> List[BlockDistance]:
    """Average attention distances over images, one by one: all of them may be too large to keep.

    Args:
        images: for each image the entries of :func:`~.attention_maps.record_attention`; at least one image.
    """
    heads: Dict[Pair, List[Tensor]] = {}
    uniform: Dict[Pair, List[float]] = {}
    for blocks in images:
        for block in blocks:
            place = block.stage, block.block
            heads.setdefault(place, []).append(attention_distance(block).cpu())
            uniform.setdefault(place, []).append(float(uniform_distance(block)))
    return [BlockDistance(*place, torch.stack(values).mean(0), float(np.mean(uniform[place])))
            for place, values in heads.items()]


def plot_attention_distance(blocks: Sequence[BlockDistance], path: Path, title: str = '') -> None:
    """Draw each head's attention distance: blocks from left to right, a dot for each head, a bar for uniform attention.

    Args:
        blocks: of :func:`measure_distances`.
        path: of the PNG.
        title: above the panels.
    """
    figure = Figure(figsize=(1.8 + 0.62 * max(8, len(blocks)), 4.4), layout='constrained')
    axis = figure.subplots()
    for place, block in enumerate(blocks):
        spread = np.linspace(-0.22, 0.22, len(block.heads)) if len(block.heads) > 1 else np.zeros(1)
        axis.plot(place + spread, block.heads, 'o', markersize=4, color=_BLUE, alpha=0.8,
                  label='a head' if place == 0 else None)
        axis.hlines(block.uniform, place - 0.4, place + 0.4, color=_ORANGE, linewidth=2,
                    label='attention spread evenly over the window' if place == 0 else None)
    names = [f'{block.block + 1}' + ('\nshifted' if block.block % 2 else '') for block in blocks]
    axis.set_xticks(range(len(blocks)), names, fontsize=8 if len(blocks) <= 12 else 6)
    for stage in sorted({block.stage for block in blocks}):
        places = [place for place, block in enumerate(blocks) if block.stage == stage]
        axis.text(np.mean(places), 0.98, f'stage {stage + 1}', ha='center', va='top', fontsize=9,
                  transform=axis.get_xaxis_transform())
        if places[0]:
            axis.axvline(places[0] - 0.5, color='grey', linewidth=0.8)
    top = max(max(float(block.heads.max()), block.uniform) for block in blocks)
    axis.set(xlabel='block', ylabel='mean attention distance (pixels)', ylim=(0, 1.18 * top or 1),
             xlim=(-0.6, len(blocks) - 0.4))
    axis.grid(axis='y', alpha=0.3)
    figure.legend(loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def block_pairs(blocks: Sequence[BlockAttention]) -> List[List[BlockAttention]]:
    """Return the last pair of a plain and a shifted block of each stage; a stage's only block if it has one."""
    pairs = []
    for stage in sorted({block.stage for block in blocks}):
        own = [block for block in blocks if block.stage == stage]
        last = len(own) - len(own) % 2 or 1
        pairs.append(own[max(0, last - 2):last])
    return pairs


def plot_attention(image: np.ndarray, blocks: Sequence[BlockAttention], point: Tuple[float, float], path: Path,
                   title: str = '') -> None:
    """Draw the attention of the token at a point: a row for each stage, for its last pair of blocks.

    From left to right: the image with the token and the windows that it is in; its attention in the W-MSA block; in
    the SW-MSA block; and through both, by :func:`~.attention_maps.attended_from` with residual connections counted.

    Args:
        image: (h, w, 3) uint8 RGB, as in the model's input, without padding.
        blocks: its recorded attention.
        point: (x, y) in its pixels.
        path: of the PNG.
        title: above the panels.

    Raises:
        ValueError: if the point is not in the image.
    """
    height, width = image.shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise SettingError(f'the point ({point[0]:g}, {point[1]:g}) is not in the image of {width} x {height} pixels')
    pairs = block_pairs(blocks)
    figure = Figure(figsize=(11.6, 0.8 + 2.75 * len(pairs) * min(1.5, height / width)), layout='constrained')
    axes = figure.subplots(len(pairs), 4, squeeze=False)
    grey = image @ np.array([0.299, 0.587, 0.114])
    for line, pair in zip(axes, pairs):
        (rows, cols), (down, right) = pair[0].size, pair[0].stride
        cell = min(int(point[1] // down), rows - 1), min(int(point[0] // right), cols - 1)
        token = cell[0] * cols + cell[1]
        maps = [attended_from([block], token) for block in pair] + [attended_from(pair, token, residual=True)] * (
            len(pair) > 1)
        others = torch.ones(rows, cols, dtype=torch.bool, device=maps[0].device)
        others[cell] = rows * cols == 1  # a token's own share, mostly the residual's, would hide the others
        norm = PowerNorm(0.5, 0, max(float(seen[others].max()) for seen in maps))
        _draw_token(line[0], image, pair, cell, point)
        names = ['in its window (W-MSA)', 'in its shifted window (SW-MSA)', 'through both (rollout)'][:len(maps)]
        for axis, name, seen in zip(line[1:], names, maps):
            drawn = _draw_seen(axis, grey, seen, pair[0].stride, norm)
            axis.add_patch(_outline(cell, pair[0].stride, 'white'))
            lost = 1 - float(seen.sum())
            axis.set_title(name + (f'\n{lost:.0%} goes to padding' if lost >= 0.005 else ''), fontsize=9)
        for axis in line[1 + len(maps):]:
            axis.axis('off')
        for axis in line:
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        line[0].set_ylabel(f'stage {pair[0].stage + 1}, blocks ' + ' and '.join(str(b.block + 1) for b in pair)
                           + f'\na token is {right} x {down} pixels', fontsize=9)
        bar = _colour_bar(figure, drawn, list(line), extend='max')
        bar.set_label('share of attention', fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_token(axis: Any, image: np.ndarray, pair: Sequence[BlockAttention], cell: Pair, point: Any) -> None:
    """Draw the image, the token, and the borders of the windows that the token is in."""
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    for block, colour, style, name in zip(pair, (_ORANGE, '#56B4E9'), ('-', '--'), ('window', 'shifted window')):
        member = visible_from(block, cell[0] * block.size[1] + cell[1]).cpu().numpy()
        for start, end in _borders(member):
            (down, right) = block.stride
            axis.plot([start[1] * right, end[1] * right], [start[0] * down, end[0] * down], style, color=colour,
                      linewidth=2)
        axis.plot([], [], style, color=colour, linewidth=2, label=name)
    axis.add_patch(_outline(cell, pair[0].stride, 'red'))
    axis.plot(*point, '+', color='red', markersize=7)
    axis.set_title('the token (red) and its windows', fontsize=9)
    if pair[0].stage == 0:
        axis.legend(fontsize=7, loc='lower right')


def _borders(member: np.ndarray) -> List[Tuple[Pair, Pair]]:
    """Return the sides of a region of a map, as lines between corners of cells (row, column)."""
    padded = np.pad(member, 1)
    lines = []
    for row, col in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])):
        lines.append(((row, col), (row, col + 1)))
    for row, col in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])):
        lines.append(((row, col), (row + 1, col)))
    return lines


def _outline(cell: Pair, stride: Pair, colour: str) -> Rectangle:
    return Rectangle((cell[1] * stride[1], cell[0] * stride[0]), stride[1], stride[0], fill=False, edgecolor=colour,
                     linewidth=1.2)


def _draw_seen(axis: Any, grey: np.ndarray, seen: Tensor, stride: Pair, norm: Normalize) -> Any:
    """Return shares of attention over the image in grey; without any, the image alone."""
    axis.imshow(grey, cmap='gray', vmin=-80, vmax=300, extent=(0, grey.shape[1], grey.shape[0], 0))
    values = np.ma.masked_less(seen.cpu().numpy(), 1e-6)
    extent = (0, seen.shape[1] * stride[1], seen.shape[0] * stride[0], 0)
    return axis.imshow(values, cmap=SEQUENTIAL, norm=norm, alpha=0.75, extent=extent, interpolation='nearest')


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
    bar = _colour_bar(figure, image, list(axes.flat))
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


def _colour_bar(figure: Figure, image: Any, axes: List[Any], extend: str = 'neither') -> Any:
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01, extend=extend)
    bar.ax.tick_params(labelsize=7)
    return bar
