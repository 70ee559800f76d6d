"""The slow, readable oracle: windowed attention written out step by step, one window and one pair of tokens at a time.

It shares no code with the package. The package's results must equal these, including gradients.
"""
from __future__ import annotations

import math
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq
from torch import Tensor

Pair = Tuple[int, int]


def bias_of_window(table: Tensor, window: Pair) -> Tensor:
    """Return (heads, N, N): look up each pair of tokens' offset in the table ((2h-1)(2w-1), heads)."""
    height, width = window
    tokens = [(row, col) for row in range(height) for col in range(width)]
    rows = []
    for query in tokens:
        for key in tokens:
            down = query[0] - key[0] + height - 1
            across = query[1] - key[1] + width - 1
            rows.append(table[down * (2 * width - 1) + across])
    return torch.stack(rows).view(len(tokens), len(tokens), -1).permute(2, 0, 1)


def resized_table(table: Tensor, source: Pair, target: Pair, mode: str = 'bicubic') -> Tensor:
    """Resize a table as the Swin authors' ``load_pretrained`` does, one head at a time."""
    if source == target:
        return table
    if mode == 'geometric':
        return geometric_table(table, source, target)
    heads = []
    for head in range(table.shape[1]):
        picture = table[:, head].reshape(1, 1, 2 * source[0] - 1, 2 * source[1] - 1)
        size = (2 * target[0] - 1, 2 * target[1] - 1)
        heads.append(F.interpolate(picture, size=size, mode=mode).flatten())
    return torch.stack(heads, dim=1)


def geometric_table(table: Tensor, source: Pair, target: Pair) -> Tensor:
    """Evaluate FITPACK's bicubic spline through the learned offsets, in geometric progression along both axes."""
    axes = []
    for old, new in zip(source, target):
        ratio = 1.
        if new > old > 1:
            ratio = brentq(lambda q, old=old, new=new: sum(q**i for i in range(old - 1)) - (new - 1), 1., new)
        positive = [sum(ratio**i for i in range(n)) for n in range(1, old)]
        axes.append(([-place for place in reversed(positive)] + [0.] + positive, range(1 - new, new)))
    (rows, to_rows), (cols, to_cols) = axes
    heads = []
    for head in range(table.shape[1]):
        picture = table[:, head].reshape(len(rows), len(cols)).double().numpy()
        degrees = min(3, len(rows) - 1), min(3, len(cols) - 1)
        spline = RectBivariateSpline(rows, cols, picture, kx=degrees[0], ky=degrees[1], s=0)
        heads.append(torch.from_numpy(spline(to_rows, to_cols)).flatten())
    return torch.stack(heads, dim=1).to(table.dtype)


def regions_after_shift(padded: Pair, window: Pair, shift: Pair) -> Tensor:
    """Return (H, W) labels: tokens that the shift has joined from different sides of the map differ."""
    labels = torch.zeros(padded, dtype=torch.long)
    count = 0
    for rows in _slices(padded[0], window[0], shift[0]):
        for cols in _slices(padded[1], window[1], shift[1]):
            labels[rows, cols] = count
            count += 1
    return labels


def _slices(length: int, window: int, shift: int) -> List[slice]:
    if shift == 0:
        return [slice(0, length)]
    return [slice(0, length - window), slice(length - window, length - shift), slice(length - shift, length)]


def attend_in_windows(x: Tensor,
                      size: Pair,
                      window: Pair,
                      shift: Pair,
                      table: Tensor,
                      table_window: Pair,
                      qkv: Tuple[Tensor, Optional[Tensor]],
                      proj: Tuple[Tensor, Tensor],
                      mode: str = 'bicubic') -> Tensor:
    """Attend in shifted windows: pad, roll, and for each window project, attend and put back; unroll, crop.

    Args:
        x: (B, H * W, C).
        size: (H, W).
        table: ((2h-1)(2w-1), heads), learned for ``table_window``.
        qkv, proj: (weight, bias) of the linear layers.

    Returns:
        (B, H * W, C).
    """
    batch, _, dims = x.shape
    heads = table.shape[1]
    bottom, right = -size[0] % window[0], -size[1] % window[1]
    maps = F.pad(x.view(batch, *size, dims), (0, 0, 0, right, 0, bottom))
    padded = (size[0] + bottom, size[1] + right)
    maps = torch.roll(maps, (-shift[0], -shift[1]), dims=(1, 2))
    labels = regions_after_shift(padded, window, shift)
    bias = bias_of_window(resized_table(table, table_window, window, mode), window)

    image_rows = []
    for image in range(batch):
        window_rows = []
        for top in range(0, padded[0], window[0]):
            windows = []
            for left in range(0, padded[1], window[1]):
                area = (slice(top, top + window[0]), slice(left, left + window[1]))
                label = labels[area].flatten()
                mask = torch.where(label[:, None] == label[None, :], 0., -100.)
                tokens = maps[image][area].reshape(-1, dims)
                windows.append(_attend(tokens, bias + mask, heads, qkv, proj).view(*window, dims))
            window_rows.append(torch.cat(windows, dim=1))
        image_rows.append(torch.cat(window_rows, dim=0))
    out = torch.roll(torch.stack(image_rows), shift, dims=(1, 2))
    return out[:, :size[0], :size[1]].reshape(batch, -1, dims)


def _attend(tokens: Tensor, bias: Tensor, heads: int, qkv: Tuple[Tensor, Optional[Tensor]],
            proj: Tuple[Tensor, Tensor]) -> Tensor:
    """Attend within (N, C) tokens of one window: (N, C)."""
    number, dims = tokens.shape
    queries, keys, values = F.linear(tokens, *qkv).chunk(3, dim=1)
    outs = []
    for head in range(heads):
        channels = slice(head * dims // heads, (head + 1) * dims // heads)
        logits = queries[:, channels] @ keys[:, channels].t() / math.sqrt(dims // heads) + bias[head]
        outs.append(logits.softmax(dim=1) @ values[:, channels])
    return F.linear(torch.cat(outs, dim=1), *proj)
