"""Pictures of a backbone's attention: how far each block attends, and to what. Every picture is a PNG of its own."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ...errors import SettingError
from ...ops.windows import Pair
from ...visualization import save_figure
from .attention_maps import BlockAttention, BlockDistance, attended_from, visible_from
from .bias_plots import BLUE, ORANGE, colour_bar

SEQUENTIAL = 'inferno'


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
        axis.plot(place + spread, block.heads, 'o', markersize=4, color=BLUE, alpha=0.8,
                  label='a head' if place == 0 else None)
        axis.hlines(block.uniform, place - 0.4, place + 0.4, color=ORANGE, linewidth=2,
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
        bar = colour_bar(figure, drawn, list(line), extend='max')
        bar.set_label('share of attention', fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _draw_token(axis: Any, image: np.ndarray, pair: Sequence[BlockAttention], cell: Pair, point: Any) -> None:
    """Draw the image, the token, and the borders of the windows that the token is in."""
    axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    for block, colour, style, name in zip(pair, (ORANGE, '#56B4E9'), ('-', '--'), ('window', 'shifted window')):
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
