"""Linear layers with bias, GELU and residual in one pass, for inference on the CPU."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import SMALLEST_BLOCK, row_blocks
from .tracing import is_exporting

# oneDNN adds a bias, GELU or another tensor to each tile of a product while it is in a register, and its products are
# faster than BLAS's on many a CPU. PyTorch's compiler uses it for weights that are constants; here it is an operator
# of our own, which eager code and the compiler can both call.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')
_LIBRARY = torch.library.Library('swin_pos_det', 'DEF')
_LIBRARY.define('linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, bool gelu) -> Tensor')


def linear(x: Tensor, layer: nn.Linear, gelu: bool = False, residual: Optional[Tensor] = None) -> Tensor:
    """``layer(x)``, then the exact GELU if asked for, plus ``residual`` if given.

    Args:
        x: (..., in_features).
        layer: its weight (out_features, in_features) and bias.
        gelu: apply GELU (not its tanh approximation). Not with ``residual``.
        residual: (..., out_features), added last.

    Returns:
        (..., out_features).
    """
    if _can_fuse(x, layer) and (residual is None or residual.dtype == x.dtype):
        return torch.ops.swin_pos_det.linear(x, layer.weight, layer.bias, residual, gelu)
    x = layer(x)
    x = F.gelu(x) if gelu else x
    return x if residual is None else residual + x


def _can_fuse(x: Tensor, layer: nn.Linear) -> bool:
    if not _HAS_ONEDNN or x.device.type != 'cpu' or torch.is_grad_enabled() or is_exporting():
        return False
    plain = type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks
    same = x.dtype == layer.weight.dtype and x.dtype in (torch.float32, torch.bfloat16)
    return plain and same and not torch.is_autocast_cpu_enabled() and torch.backends.mkldnn.enabled


def _linear_cpu(x: Tensor, weight: Tensor, bias: Optional[Tensor], residual: Optional[Tensor], gelu: bool) -> Tensor:
    # oneDNN compiles and keeps code for each shape it meets: so only blocks of a few sizes go to it.
    rows = x.reshape(-1, x.shape[-1])
    extra = None if residual is None else residual.reshape(-1, weight.shape[0])
    blocks = list(row_blocks(rows.shape[0]))
    if len(blocks) == 1:
        return _product(rows, weight, bias, extra, gelu).view(*x.shape[:-1], -1)
    out = x.new_empty(*x.shape[:-1], weight.shape[0])
    flat = out.view(-1, weight.shape[0])
    for some in blocks:
        flat[some] = _product(rows[some], weight, bias, None if extra is None else extra[some], gelu)
    return out


def _product(x: Tensor, weight: Tensor, bias: Optional[Tensor], residual: Optional[Tensor], gelu: bool) -> Tensor:
    if x.shape[0] < SMALLEST_BLOCK:
        x = F.linear(x, weight, bias)
        x = F.gelu(x) if gelu else x
        return x if residual is None else residual + x
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, 'add')
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'gelu' if gelu else 'none', [], 'none')


def _linear_meta(x: Tensor, weight: Tensor, bias: Optional[Tensor], residual: Optional[Tensor], gelu: bool) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_LIBRARY.impl('linear', _linear_cpu, 'CPU')
_LIBRARY.impl('linear', _linear_meta, 'Meta')
