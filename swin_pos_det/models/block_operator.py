"""A block as one operator of the graphs that ``torch.compile`` makes for inference on a CPU.

What makes a block fast there goes by the sizes at hand: some windows at a time, some rows at a time, no padding
(``swin_blocks``). In a graph it would be unrolled, once for each size. So the graph calls the block. Graphs that are
exported, or in which gradients or hooks are wanted, have the block's layers instead.
"""
from __future__ import annotations

import copy
from itertools import count
from typing import List, Optional, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from ..layers import Cut, autocast_dtype_on_cpu, has_hooks, is_compiling, is_exporting

# torch.library.custom_op is of 2.4; but only from 2.7 on can compiling be told from exporting, where graphs may have
# torch's own operators only.
HAS_OPERATOR = hasattr(torch.library, 'custom_op') and hasattr(torch.compiler, '_is_exporting_flag')

_BLOCKS: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
_numbers = count()


def numbered(block: nn.Module) -> Tensor:
    """A number by which graphs of this process find the block while it lives.

    A tensor, not an int: a graph takes it as an input, and so serves every copy of a model.
    """
    number = next(_numbers)
    _BLOCKS[number] = block
    return torch.tensor(number, device='cpu')


def can_be_operator(block: nn.Module, x: Tensor) -> bool:
    """Whether a graph is being made that may call ``block`` on tokens ``x``: all that the call needs is handed over."""
    if not HAS_OPERATOR or not is_compiling() or is_exporting() or torch.is_grad_enabled():
        return False
    own = all(type(weight) in (Tensor, nn.Parameter) for weight in block.parameters()) and not list(block.buffers())
    seen = any(has_hooks(module) for module in block.modules())
    return x.device.type == 'cpu' and own and not seen and block.is_as_built()


def call_as_operator(block: nn.Module, x: Tensor, number: Tensor, cut: Cut) -> Tensor:
    """The block's forward.

    Args:
        block: for which :func:`can_be_operator` holds.
        x: (B, H * W, C) tokens.
        number: of :func:`numbered`.
        cut: how the map is cut into windows.

    Returns:
        (B, H * W, C).
    """
    valid = None if cut.valid is None else [side for own in cut.valid for side in own]
    return _operator(x, list(block.parameters()), number, cut.size, cut.window, cut.shift, cut.hide_padding, valid,
                     autocast_dtype_on_cpu())


def _call(x: Tensor, weights: Sequence[Tensor], number: Tensor, size: Sequence[int], window: Sequence[int],
          shift: Sequence[int], hide_padding: bool, valid: Optional[Sequence[int]],
          autocast: Optional[torch.dtype]) -> Tensor:
    block = _BLOCKS.get(int(number))
    if block is None:
        raise RuntimeError('a compiled graph outlived the model that it was made of: compile the model again')
    block = _with_weights(block, weights)
    pairs = None if valid is None else list(zip(valid[::2], valid[1::2]))
    # Graphs are run without the autocast that they were made under.
    with torch.no_grad(), torch.autocast('cpu', dtype=autocast, enabled=autocast is not None):
        plan = Cut(size, window, shift, hide_padding, pairs).plan(x.shape[0], x.device)
        return block(x, plan).contiguous()


def _with_weights(block: nn.Module, weights: Sequence[Tensor]) -> nn.Module:
    """The block; a copy of it where a graph has other weights: those it was frozen with, or ``functional_call``'s."""
    own: List[Tensor] = list(block.parameters())
    if all(mine is given or mine.data_ptr() == given.data_ptr() for mine, given in zip(own, weights)):
        return block
    return copy.deepcopy(block, {id(mine): given for mine, given in zip(own, weights)})


if HAS_OPERATOR:
    _operator = torch.library.custom_op('swin_pos_det::block', _call, mutates_args=())
    _operator.register_fake(lambda x, *_: x.new_empty(x.shape))
