"""Slow, readable oracles of the position schemes and of Swin V2: one offset, one pair of channels, one window a time.

They share no code with the package.
"""
from __future__ import annotations

import math
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import regions_after_shift

Pair = Tuple[int, int]
Rotation = Callable[[Tensor, int], Tensor]  # (N, channels) queries or keys of a head, its number -> the same turned


def tokens_of(window: Pair) -> List[Pair]:
    """Return (row, column) of each token of a window."""
    return [(row, col) for row in range(window[0]) for col in range(window[1])]


def continuous_bias(first: Tensor, first_bias: Tensor, second: Tensor, window: Pair, learned: Pair,
                    logarithmic: bool) -> Tensor:
    """Return (heads, N, N): Swin V2's network at the offset of each pair of tokens, computed pair by pair.

    Args:
        first, first_bias: (512, 2) and (512,), of the hidden layer; inputs are the offset down and across.
        second: (heads, 512).
        window: (h, w) of the tokens.
        learned: (h, w) by which offsets are measured.
    """
    rows = []
    for query in tokens_of(window):
        for key in tokens_of(window):
            place = []
            for axis in (0, 1):
                share = (query[axis] - key[axis]) / (learned[axis] - 1 if learned[axis] > 1 else 1)
                if logarithmic:
                    share = math.copysign(math.log(abs(8 * share) + 1, 2) / 3, share)
                place.append(share)
            hidden = (first[:, 0] * place[0] + first[:, 1] * place[1] + first_bias).clamp(min=0)
            rows.append(16 / (1 + torch.exp(-(second * hidden).sum(1))))
    number = window[0] * window[1]
    return torch.stack(rows).view(number, number, -1).permute(2, 0, 1)


def axial_frequencies(channels: int, theta: float) -> Tuple[List[float], List[float]]:
    """Return the frequencies of each pair of a head's channels, in radians per token: along x and along y."""
    falling = [theta**(-4 * t / channels) for t in range(channels // 4)]
    return falling + [0.] * len(falling), [0.] * len(falling) + falling


def turned(x: Tensor, window: Pair, along_x: Sequence, along_y: Sequence) -> Tensor:
    """Return (N, channels): each token's pair p of channels, as a complex number, times exp(i (x f_x + y f_y))."""
    rows = []
    for token, (row, col) in enumerate(tokens_of(window)):
        numbers = []
        for pair in range(x.shape[1] // 2):
            angle = torch.as_tensor(col * along_x[pair] + row * along_y[pair], dtype=x.dtype)
            number = torch.complex(x[token, 2 * pair], x[token, 2 * pair + 1])
            number = number * torch.polar(torch.ones_like(angle), angle)
            numbers += [number.real, number.imag]
        rows.append(torch.stack(numbers))
    return torch.stack(rows)


def attend_in_windows(x: Tensor,
                      size: Pair,
                      window: Pair,
                      shift: Pair,
                      heads: int,
                      qkv: Tuple[Tensor, Optional[Tensor]],
                      proj: Tuple[Tensor, Tensor],
                      bias: Optional[Tensor] = None,
                      rotation: Optional[Rotation] = None,
                      logit_scale: Optional[Tensor] = None,
                      appearance: bool = True,
                      hide: bool = False,
                      valid: Optional[Sequence[Pair]] = None) -> Tensor:
    """Attend in shifted windows, the textbook way: pad, roll, attend in each window, roll back, crop.

    Args:
        x: (B, H * W, C).
        size: (H, W).
        heads: their number.
        qkv, proj: (weight, bias) of the linear layers.
        bias: (heads, N, N).
        rotation: of queries and keys.
        logit_scale: (heads, 1, 1), the logarithm of what cosines are multiplied by; None for dot products.
        appearance: whether logits depend on queries and keys.
        hide: whether no token may attend to padding.
        valid: with ``hide``, for each image the (h, w) of its own part of the map; the rest is padding too.

    Returns:
        (B, H * W, C).
    """
    batch, _, dims = x.shape
    bottom, right = -size[0] % window[0], -size[1] % window[1]
    padded = (size[0] + bottom, size[1] + right)
    maps = torch.roll(F.pad(x.view(batch, *size, dims), (0, 0, 0, right, 0, bottom)), (-shift[0], -shift[1]), (1, 2))
    real = torch.zeros(batch, *padded, dtype=torch.bool)
    for image, (height, width) in enumerate([size] * batch if valid is None else valid):
        real[image, :height, :width] = True
    real = torch.roll(real, (-shift[0], -shift[1]), (1, 2))
    labels = regions_after_shift(padded, window, shift)
    out = torch.empty_like(maps)
    for image in range(batch):
        for top in range(0, padded[0], window[0]):
            for left in range(0, padded[1], window[1]):
                area = (slice(top, top + window[0]), slice(left, left + window[1]))
                label = labels[area].flatten()
                mask = torch.where(label[:, None] == label[None, :], 0., -100.)
                if hide:
                    mask = mask + torch.where(real[image][area].flatten(), 0., -10000.)[None, :]
                tokens = F.linear(maps[image][area].reshape(-1, dims), *qkv)
                attended = _attend(tokens, heads, mask, bias, rotation, logit_scale, appearance)
                out[image][area] = F.linear(attended, *proj).view(*window, dims)
    return torch.roll(out, shift, (1, 2))[:, :size[0], :size[1]].reshape(batch, -1, dims)


def _attend(qkv: Tensor, heads: int, mask: Tensor, bias: Optional[Tensor], rotation: Optional[Rotation],
            logit_scale: Optional[Tensor], appearance: bool) -> Tensor:
    """Attend within (N, 3 C) projected tokens of one window: (N, C)."""
    outs = []
    for head, (q, k, v) in enumerate(zip(*(part.chunk(heads, dim=1) for part in qkv.chunk(3, dim=1)))):
        if logit_scale is not None:
            factor = torch.exp(torch.clamp(logit_scale[head].squeeze(), max=math.log(100)))
            q, k = (torch.stack([row / row.norm() if row.norm() > 1e-4 else 0 * row for row in part])
                    for part in (q, k))
        else:
            factor = q.shape[1]**-0.5
        if rotation is not None:
            q, k = rotation(q, head), rotation(k, head)
        logits = q @ k.t() * factor if appearance else torch.zeros(len(q), len(q), dtype=q.dtype)
        logits = logits + mask
        outs.append((logits if bias is None else logits + bias[head]).softmax(1) @ v)
    return torch.cat(outs, dim=1)


def swin_v2(state: Mapping[str, Tensor], image: Tensor, depths: Sequence[int], heads: Sequence[int],
            windows: Sequence[Pair], learned: Sequence[Pair]) -> List[Tensor]:
    """Return the features of Swin V2 from its paper, section 3, and the weights of our model: a map for each stage."""
    patch = state['patch_embed.projection.weight'].shape[2]
    image = F.pad(image, (0, -image.shape[3] % patch, 0, -image.shape[2] % patch))
    maps = F.conv2d(image, state['patch_embed.projection.weight'], state['patch_embed.projection.bias'], stride=patch)
    size = tuple(maps.shape[2:])
    x = _norm(maps.flatten(2).transpose(1, 2), state, 'patch_embed.norm')
    outs = []
    for stage, depth in enumerate(depths):
        if stage:
            x, size = _merge_patches(x, size, state, f'stages.{stage - 1}.downsample')
        for block in range(depth):
            shift = (windows[stage][0] // 2, windows[stage][1] // 2) if block % 2 else (0, 0)
            x = _block(x, size, windows[stage], shift, heads[stage], learned[stage], state,
                       f'stages.{stage}.blocks.{block}')
        outs.append(_norm(x, state, f'norm{stage}').transpose(1, 2).unflatten(2, size))
    return outs


def _block(x: Tensor, size: Pair, window: Pair, shift: Pair, heads: int, learned: Pair, state: Mapping[str, Tensor],
           name: str) -> Tensor:
    """Compute x + norm(attention(x)), then x + norm(feed-forward(x))."""
    own = {key[len(name) + 1:]: value for key, value in state.items() if key.startswith(f'{name}.')}
    msa = {key[len('attn.w_msa.'):]: value for key, value in own.items() if key.startswith('attn.w_msa.')}
    biases = torch.cat([msa['q_bias'], torch.zeros_like(msa['q_bias']), msa['v_bias']])
    bias = continuous_bias(msa['cpb_mlp.0.weight'], msa['cpb_mlp.0.bias'], msa['cpb_mlp.2.weight'], window, learned,
                           logarithmic=True)
    attended = attend_in_windows(x, size, window, shift, heads, (msa['qkv.weight'], biases),
                                 (msa['proj.weight'], msa['proj.bias']), bias, logit_scale=msa['logit_scale'])
    x = x + _norm(attended, own, 'norm1')
    hidden = F.gelu(F.linear(x, own['ffn.layers.0.0.weight'], own['ffn.layers.0.0.bias']))
    return x + _norm(F.linear(hidden, own['ffn.layers.1.weight'], own['ffn.layers.1.bias']), own, 'norm2')


def _merge_patches(x: Tensor, size: Pair, state: Mapping[str, Tensor], name: str) -> Tuple[Tensor, Pair]:
    """Reduce four tokens' channels, then apply the norm."""
    maps = F.pad(x.unflatten(1, size).permute(0, 3, 1, 2), (0, size[1] % 2, 0, size[0] % 2))
    merged = (maps.shape[2] // 2, maps.shape[3] // 2)
    tokens = F.unfold(maps, kernel_size=2, stride=2).transpose(1, 2)
    return _norm(F.linear(tokens, state[f'{name}.reduction.weight']), state, f'{name}.norm'), merged


def _norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f'{name}.weight'] + state[f'{name}.bias']
