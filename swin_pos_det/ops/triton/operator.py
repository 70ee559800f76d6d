"""The kernels as operators of torch, so that autograd, fake tensors, ``torch.compile`` and FLOP counters know them.

``swin_pos_det::window_attention`` has a registered derivative, which tracing uses. In eager mode the same derivative
goes through an ``autograd.Function`` around the operator below autograd, which takes the host less time, in training's
forward pass less than half (docs/benchmark.md); with few images the host is what a GPU waits for.
"""
from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from ..runtime import is_tracing
from ..windows import Pair
from . import launch

Settings = Tuple[Pair, Pair, Pair, bool, int, float]

_library = torch.library.Library('swin_pos_det', 'DEF')
_settings = 'SymInt[] size, SymInt[] window, SymInt[] shift, bool hide, int num_heads, float scale'
for _schema in (
        f'window_attention(Tensor qkv, Tensor? pad, Tensor? table, Tensor? sizes, {_settings}) -> (Tensor, Tensor)',
        'window_attention_backward(Tensor grad, Tensor qkv, Tensor? pad, Tensor? table, Tensor? sizes, Tensor out, '
        f'Tensor lse, {_settings}, bool learn_pad, bool learn_table) -> (Tensor, Tensor, Tensor)'):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
for _device in ('CUDA', 'CPU'):  # on the CPU, triton's interpreter
    _library.impl('window_attention', launch.forward, _device)
    _library.impl('window_attention_backward', launch.backward, _device)
_FORWARD = torch.ops.swin_pos_det.window_attention.default
_BACKWARD = torch.ops.swin_pos_det.window_attention_backward.default


def window_attention(qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor], size: Pair,
                     window: Pair, shift: Pair, hide: bool, num_heads: int, scale: float) -> Tensor:
    """Attend within shifted windows, all of it in one kernel.

    Args:
        qkv: (B, H * W, 3 C) contiguous queries, keys and values in reading order.
        pad: (3 C,) contiguous, those of padding. None for zeros, and where padding is hidden.
        table: ((2 h - 1) * (2 w - 1), num_heads) contiguous, the bias of offsets; None for none.
        sizes: (B, 2) int32, with ``hide``: the height and width of each image's own part of the map. None: (H, W).
        size: (H, W).
        window, shift: see :class:`~swin_pos_det.ops.windows.WindowSpec`.
        hide: keep tokens from attending to padding.
        num_heads: heads.
        scale: factor on ``q k^T``.

    Returns:
        (B, H * W, C).
    """
    arguments = qkv, pad, table, sizes, size, window, shift, hide, num_heads, scale
    return _FORWARD(*arguments)[0] if is_tracing() else _EagerAttention.apply(*arguments)


@torch.library.register_fake('swin_pos_det::window_attention', lib=_library)
def _forward_fake(qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor], size: Pair,
                  window: Pair, shift: Pair, hide: bool, num_heads: int, scale: float) -> Tuple[Tensor, Tensor]:
    windows = qkv.shape[0] * -(-size[0] // window[0]) * -(-size[1] // window[1])
    return (qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3),
            qkv.new_empty(windows, num_heads, window[0] * window[1], dtype=launch.exact_dtype(qkv.dtype)))


@torch.library.register_fake('swin_pos_det::window_attention_backward', lib=_library)
def _backward_fake(grad: Tensor, qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor],
                   out: Tensor, lse: Tensor, size: Pair, window: Pair, shift: Pair, hide: bool, num_heads: int,
                   scale: float, learn_pad: bool, learn_table: bool) -> Tuple[Tensor, Tensor, Tensor]:
    return (torch.empty_like(qkv), torch.empty_like(pad) if learn_pad else qkv.new_empty(0),
            torch.empty_like(table) if learn_table else qkv.new_empty(0))


def _save(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.settings = inputs[4:]


def _differentiate(ctx: Any, grad: Optional[Tensor], *_: Any) -> Tuple[Optional[Tensor], ...]:
    learn_pad, learn_table = ctx.needs_input_grad[1:3]
    grads = _BACKWARD(grad, *ctx.saved_tensors, *ctx.settings, learn_pad, learn_table)
    return (grads[0], grads[1] if learn_pad else None, grads[2] if learn_table else None, *(None, ) * 7)


torch.library.register_autograd('swin_pos_det::window_attention', _differentiate, setup_context=_save, lib=_library)


class _EagerAttention(torch.autograd.Function):
    """The operator and its derivative, below autograd."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output = _FORWARD(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        return _differentiate(ctx, grad)


def _products(number: int, qkv_shape: Sequence[int], settings: Settings) -> int:
    """Count the FLOPs of ``number`` products of (N, C) and (C, N) matrices in all windows, as torch does for SDPA."""
    size, window = settings[:2]
    windows = qkv_shape[0] * -(-size[0] // window[0]) * -(-size[1] // window[1])
    return number * 2 * windows * (window[0] * window[1])**2 * (qkv_shape[2] // 3)


@register_flop_formula(torch.ops.swin_pos_det.window_attention)
def _forward_flops(qkv_shape: Sequence[int], pad: Any, table: Any, sizes: Any, *settings: Any, **_: Any) -> int:
    return _products(2, qkv_shape, settings)


@register_flop_formula(torch.ops.swin_pos_det.window_attention_backward)
def _backward_flops(grad: Any, qkv_shape: Sequence[int], pad: Any, table: Any, sizes: Any, out: Any, lse: Any,
                    *settings: Any, **_: Any) -> int:
    return _products(5, qkv_shape, settings)  # scores are computed again
