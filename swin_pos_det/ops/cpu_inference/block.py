"""A Swin block for inference on a CPU: attention for some windows at a time, the rest for some tokens at a time."""
from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor, nn

from ..feed_forward import is_exact_gelu
from ..masks import split
from ..window_attention import window_attention
from ..windows import WindowPlan
from .attention import attend_without_padding, can_drop_padding
from .chunks import can_chunk, chunk_size, is_large
from .linear import prepared_linear, recurring_rows


def can_run(block: nn.Module, x: Tensor) -> bool:
    """Return whether :func:`run` may replace the forward of a block.

    True for large maps on a CPU, in evaluation mode and without gradients, if the block is unmodified (no hooks,
    patched forwards or adapters) and no mode sees the operators.

    Args:
        block: a ``SwinBlock``.
        x: (B, L, C) tokens.
    """
    return is_large(x) and can_chunk(block) and is_exact_gelu(block.ffn.layers[0][1])


def run(block: nn.Module, x: Tensor, plan: WindowPlan) -> Tensor:
    """Compute the forward of a block for which :func:`can_run` holds: (B, L, C) -> (B, L, C)."""
    tokens, attention, post = x.flatten(0, 1), block.attn.w_msa, block.norm_order == 'res-post'
    if can_drop_padding(attention, plan):
        attended = attend_without_padding(attention, tokens, None if post else block.norm1, plan)
    else:
        inputs = attention.inputs(x if post else block.norm1(x), plan)
        attended = window_attention(**inputs).flatten(0, 1)
    chunk = chunk_size(len(tokens))
    rows = recurring_rows({chunk: len(tokens) // chunk})
    project, network = prepared_linear(attention.proj.weight, attention.proj.bias, rows), _network(block.ffn, rows)

    out = torch.empty_like(tokens)
    for some in split(len(tokens), chunk):
        projected = project(attended[some])
        part = torch.add(tokens[some], block.norm1(projected) if post else projected, out=out[some])
        part += block.norm2(network(part)) if post else network(block.norm2(part))
    return out.view_as(x)


def _network(network: nn.Module, rows: Any) -> Callable[[Tensor], Tensor]:
    """Return the feed-forward network as a function of (n, C) tokens, often ``rows`` at once."""
    (first, _, _), second, _ = network.layers
    hidden = prepared_linear(first.weight, first.bias, rows, gelu=True)
    out = prepared_linear(second.weight, second.bias, rows)
    return lambda x: out(hidden(x))
