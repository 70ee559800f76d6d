"""The door to attention: ``softmax(q k^T * scale + bias + mask) v`` within shifted windows, tokens in, tokens out.

Each implementation is a module with a function ``attention`` of the door's arguments. If it cannot take them all, it
also has ``unsupported``, which returns the reason for those it cannot take. To add one, write the module and name it in
:data:`IMPLEMENTATIONS`; :func:`choose` decides when it is the fastest. All are held to ``reference`` by
tests/test_ops/test_window_attention.py.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from types import ModuleType
from typing import Dict, Iterator, Optional

import torch
from torch import Tensor

from ..errors import SettingError
from . import cpu_training, reference, sdpa, triton
from .heads import Rotation
from .position_bias import PositionBias
from .runtime import is_tracing
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
        rotate: rotates queries and keys (nW, heads, N, C / heads) by their places in the window. Default: nothing.
        dropout: on attention weights, from 0 to below 1.

    Returns:
        (B, L, C) tokens in reading order.

    Raises:
        SettingError: if an implementation was requested that does not exist, or does not support these arguments.
    """
    arguments = qkv, plan, bias, num_heads, scale, pad, rotate, dropout
    if _requested is None:
        return IMPLEMENTATIONS[choose(*arguments)].attention(*arguments)
    implementation = _implementation(_requested)
    unsupported = getattr(implementation, 'unsupported', None)
    reason = None if unsupported is None else unsupported(*arguments)
    if reason is not None:
        raise SettingError(f'attention implementation {_requested!r} was requested, but it does not support {reason}')
    return implementation.attention(*arguments)


def choose(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
           pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> str:
    """Return the name of the fastest implementation for these arguments."""
    if qkv.device.type == 'cuda':
        reason = triton.unsupported(qkv, plan, bias, num_heads, scale, pad, rotate, dropout)
        return 'triton' if reason is None else 'sdpa'
    # SDPA on the CPU keeps the N x N scores of every window if the bias is learned.
    learned = torch.is_grad_enabled() and bias is not None and bias.requires_grad
    return 'cpu_training' if learned and qkv.device.type == 'cpu' and not dropout and not is_tracing() else 'sdpa'


def requested_impl() -> Optional[str]:
    """Return the implementation that :func:`use_impl` or ``SWIN_POS_DET_ATTENTION`` requests, or None."""
    return _requested


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
