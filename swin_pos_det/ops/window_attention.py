"""Attention within shifted windows, ``softmax(q k^T * scale + bias + mask) v``: tokens in, tokens out.

:func:`window_attention` passes its arguments to an implementation: a module with a function ``attention`` that takes
them. One that cannot take all values also has ``unsupported``, which returns the reason. To add an implementation,
write the module and name it in :data:`IMPLEMENTATIONS`; :func:`choose` decides when it is used.
tests/test_ops/test_window_attention.py compares all of them with ``reference``.

Letters in shapes are those of :mod:`.windows`: ``nW`` windows of all images together, of ``N`` tokens each.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Dict, Iterator, Optional, Sequence

import torch
from torch import Tensor

from ..errors import SettingError
from . import cpu_training, reference, sdpa, self_check, triton
from .heads import Rotation
from .position_bias import PositionBias
from .windows import WindowPlan

IMPLEMENTATIONS: Dict[str, ModuleType] = {
    'reference': reference,  # the formula; for tests, bug reports and attention weights
    'sdpa': sdpa,  # torch's scaled_dot_product_attention
    'cpu_training': cpu_training,  # recomputes scores in the backward pass
    'triton': triton,  # one fused kernel for CUDA
}
_requested: Optional[str] = os.environ.get('SWIN_POS_DET_ATTENTION') or None


def window_attention(qkv: Tensor,
                     plan: WindowPlan,
                     bias: Optional[PositionBias] = None,
                     *,
                     num_heads: int,
                     scale: float,
                     pad: Optional[Tensor] = None,
                     rotate: Optional[Rotation] = None,
                     dropout: float = 0.) -> Tensor:
    """Attend within the windows of a plan. Partition, shift, padding, masks and their inverse are done inside.

    Args:
        qkv: (B, L, 3 C) queries, keys and values of tokens in reading order.
        plan: how the batch is partitioned.
        bias: added to the logits of every window. Default: none.
        num_heads: heads, a divisor of C.
        scale: factor on ``q k^T``.
        pad: (3 C,) the queries, keys and values of padding. Default: zeros.
        rotate: rotates queries and keys, (nW, heads, N, C / heads) each, by their places in the window. Default: none.
        dropout: on attention weights, from 0 to below 1.

    Returns:
        (B, L, C) tokens in reading order.

    Raises:
        SettingError: if an implementation was requested that does not exist, or does not support these arguments.
    """
    arguments = qkv, plan, bias, num_heads, scale, pad, rotate, dropout
    if _requested is None:
        return IMPLEMENTATIONS[choose(*arguments)].attention(*arguments)
    reason = _unsupported(_requested, arguments)
    if reason is not None:
        raise SettingError(f'attention implementation {_requested!r} was requested, but it does not support {reason}')
    return _implementation(_requested).attention(*arguments)


def choose(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
           pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> str:
    """Return the name of the implementation to use for these arguments: the fastest that supports them."""
    fastest = 'sdpa'
    if qkv.device.type == 'cuda':
        fastest = 'triton'
    elif qkv.device.type == 'cpu' and torch.is_grad_enabled() and bias is not None and bias.requires_grad:
        # With a mask that needs a gradient, SDPA on a CPU leaves its fused kernel and keeps the scores of all windows
        # for the backward pass, which cpu_training recomputes. Without one SDPA recomputes them itself.
        fastest = 'cpu_training'
    if _unsupported(fastest, (qkv, plan, bias, num_heads, scale, pad, rotate, dropout)) is not None:
        return 'sdpa'
    if fastest == 'triton' and not self_check.passes(triton, reference, qkv, plan, bias, num_heads, scale, pad):
        return 'sdpa'
    return fastest


def requested_impl() -> Optional[str]:
    """Return the implementation that :func:`use_impl` or ``SWIN_POS_DET_ATTENTION`` requests, or None."""
    return _requested


def _unsupported(name: str, arguments: Sequence[Any]) -> Optional[str]:
    """Return the reason why an implementation does not support these arguments; None if it does."""
    check = getattr(_implementation(name), 'unsupported', None)
    return None if check is None else check(*arguments)


def _implementation(name: str) -> ModuleType:
    if name not in IMPLEMENTATIONS:
        raise SettingError(f'the attention implementation (SWIN_POS_DET_ATTENTION) must be one of '
                           f'{sorted(IMPLEMENTATIONS)}, got {name!r}')
    return IMPLEMENTATIONS[name]


@contextmanager
def use_impl(name: Optional[str]) -> Iterator[None]:
    """Request an implementation for all attention in this process; it also replaces CPU inference of blocks.

    Not for threads that request different ones at the same time.

    Args:
        name: of :data:`IMPLEMENTATIONS`; None lets :func:`choose` decide.

    Raises:
        SettingError: if there is none of that name.
    """
    global _requested
    if name is not None:
        _implementation(name)
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before
