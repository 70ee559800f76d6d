"""A block as one operator of graphs that ``torch.compile`` makes for inference on a CPU.

What makes a block fast there goes by the sizes at hand: some windows at a time, some rows at a time, no padding
(``swin_blocks``). In a graph it would be unrolled, once for each size. So the graph calls the block.
"""
from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import Iterator, List, Optional, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..layers import Cut, is_compiling, is_exporting

# torch.library.custom_op is of 2.4; but only from 2.7 on can compiling be told from exporting, where graphs may have
# torch's own operators only.
HAS_OPERATOR = hasattr(torch.library, 'custom_op') and hasattr(torch.compiler, 'is_exporting')

_BLOCKS: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
_numbers = count()


def register_block(block: nn.Module) -> str:
    """A name for a block, by which graphs of this process find it; it keeps the block from nothing."""
    name = f'block{next(_numbers)}'
    _BLOCKS[name] = block
    return name


def can_be_operator(x: Tensor) -> bool:
    """Whether a graph is being made that may call blocks: by ``torch.compile``, on a CPU, without gradients."""
    wanted = HAS_OPERATOR and is_compiling() and not is_exporting()
    return wanted and x.device.type == 'cpu' and not torch.is_grad_enabled()


def block_in_graph(x: Tensor, parameters: List[Tensor], name: str, cut: Cut) -> Tensor:
    """A block's forward.

    Args:
        x: (B, H * W, C) tokens.
        parameters: the block's, in their order.
        name: of :func:`register_block`.
        cut: how the map is cut into windows.

    Returns:
        (B, H * W, C).
    """
    amp = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None
    valid = None if cut.valid is None else [side for own in cut.valid for side in own]
    return _block(x, parameters, name, cut.size, cut.window, cut.shift, cut.hide_padding, valid, amp)


def _call_block(x: Tensor, parameters: Sequence[Tensor], name: str, size: Sequence[int], window: Sequence[int],
                shift: Sequence[int], hide_padding: bool, valid: Optional[Sequence[int]],
                amp: Optional[torch.dtype]) -> Tensor:
    block = _BLOCKS[name]
    pairs = None if valid is None else list(zip(valid[::2], valid[1::2]))
    with torch.no_grad(), _autocast_as(amp):
        plan = Cut(size, window, shift, hide_padding, pairs).plan(x.shape[0], x.device)
        if all(own.data_ptr() == given.data_ptr() for own, given in zip(block.parameters(), parameters)):
            return block(x, plan)
        # Somebody called the model with other weights than its own. Not the usual way, as threads would meet in it.
        named = {each: given for (each, _), given in zip(block.named_parameters(), parameters)}
        return functional_call(block, named, (x, plan))


@contextmanager
def _autocast_as(dtype: Optional[torch.dtype]) -> Iterator[None]:
    """Autocast as it was when the graph was made; a graph itself is run without."""
    with torch.autocast('cpu', dtype=dtype, enabled=dtype is not None):
        yield


if HAS_OPERATOR:
    _block = torch.library.custom_op('swin_pos_det::block', _call_block, mutates_args=())
    _block.register_fake(lambda x, *_: torch.empty_like(x))
