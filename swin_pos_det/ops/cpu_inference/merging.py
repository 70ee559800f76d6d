"""Patch merging for inference on a CPU: some rows of the map at a time, with weights in the order of the tokens."""
from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..masks import split
from ..optimizations import OPTIMIZATIONS
from ..patches import two_by_two
from ..windows import Pair
from .chunks import can_chunk, chunk_size, is_large


def can_run_merging(merging: nn.Module, x: Tensor) -> bool:
    """Return whether :func:`run_merging` may replace the forward of a 2x2 ``PatchMerging`` with layer norm or none."""
    norm = type(merging.norm) in (nn.LayerNorm, type(None))
    return is_large(x) and OPTIMIZATIONS['merge_weights'] and norm and merging.is_two_by_two and can_chunk(merging)


def run_merging(merging: nn.Module, x: Tensor, size: Pair) -> Tuple[Tensor, Pair]:
    """Merge (B, H * W, C) tokens of maps of ``size`` = (H, W) to (B, H' * W', C') tokens and (H', W').

    Interleaving the channels of four tokens would take as long as the reduction itself. So the weights are reordered,
    and channels stay in the order of the tokens.
    """
    fours = two_by_two(x, size).transpose(2, 3).flatten(0, 1)  # B * H', W', 2, 2, C
    before, after = merging.norms
    weight = _by_tokens(merging.reduction.weight)
    if before is not None:
        affine = [None if each is None else _by_tokens(each) for each in (before.weight, before.bias)]

    def reduce(tokens: Tensor) -> Tensor:
        if before is not None:
            tokens = F.layer_norm(tokens, before.normalized_shape, *affine, before.eps)
        tokens = F.linear(tokens, weight, merging.reduction.bias)
        return tokens if after is None else after(tokens)

    rows, width = fours.shape[:2]
    most = max(1, chunk_size(rows * width) // width)
    reduced = torch.cat([reduce(fours[some].flatten(2).flatten(0, 1)) for some in split(rows, most)])
    return reduced.unflatten(0, (x.shape[0], -1)), (rows // x.shape[0], width)


def _by_tokens(of_channels: Tensor) -> Tensor:
    """Reorder parameters of interleaved channels (..., 4 C) to the channels of four tokens one after the other."""
    return of_channels.unflatten(-1, (-1, 4)).transpose(-2, -1).flatten(-2)
