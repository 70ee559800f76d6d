"""Linear layers for inference on a CPU, by oneDNN if torch has it."""
from __future__ import annotations

from typing import Callable, Container, FrozenSet, Mapping, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..optimizations import OPTIMIZATIONS
from ..runtime import autocast_dtype
from .chunks import CHUNK

Layer = Callable[[Tensor], Tensor]

# oneDNN reads weights in its own layout. Reordering them takes as long as it saves on this many tokens.
MIN_TOKENS = 1024
# It compiles and keeps code for each new number of rows, so it gets only large numbers that recur.
MIN_ROWS = 512


def prepared_linear(weight: Tensor, bias: Optional[Tensor], rows: Container[int], gelu: bool = False) -> Layer:
    """Return ``F.linear`` with these weights, optionally followed by GELU, to be called on chunk after chunk.

    oneDNN computes GELU while a result is still in registers. Its products are faster than those of torch's other
    library on some CPUs, and as fast on the rest (docs/benchmark.md). Nothing is kept from one call of this function
    to the next, so weights may be changed in any way.

    Args:
        weight: (out, in), float32 or bfloat16 for oneDNN; under autocast both it and the input are cast.
        bias: (out,) or None.
        rows: frequent numbers of tokens, for oneDNN; see :func:`recurring_rows`.
        gelu: whether ``F.gelu`` follows.

    Returns:
        A function (n, in) -> (n, out) without gradients, for any n.
    """
    def plain(x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, weight, bias)) if gelu else F.linear(x, weight, bias)

    dtype = autocast_dtype('cpu') or weight.dtype
    if not rows or not _onednn_takes(weight, dtype):
        return plain
    ordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), CHUNK)
    added = None if bias is None else bias.detach().to(dtype)
    then = ('gelu', [], 'none') if gelu else ('none', [], '')

    def fast(x: Tensor) -> Tensor:
        if x.shape[0] not in rows:
            return plain(x)
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), ordered, added, *then)
    return fast


def recurring_rows(calls: Mapping[int, int]) -> FrozenSet[int]:
    """Return the row counts to pass to oneDNN, from how often each occurs; none for too few tokens in all."""
    rows = frozenset(number for number in calls if number >= MIN_ROWS)
    return rows if sum(number * calls[number] for number in rows) >= MIN_TOKENS else frozenset()


def _onednn_takes(weight: Tensor, dtype: torch.dtype) -> bool:
    operators = torch.ops.mkldnn
    known = all(hasattr(operators, name) for name in ('_linear_pointwise', '_reorder_linear_weight'))
    if not OPTIMIZATIONS['onednn'] or not known:
        return False
    if not torch.backends.mkldnn.is_available() or not torch._C._get_mkldnn_enabled():
        return False
    own = type(weight) in (Tensor, nn.Parameter) and weight.device.type == 'cpu'
    return own and (dtype == torch.float32 or dtype == torch.bfloat16 and operators._is_mkldnn_bf16_supported())
