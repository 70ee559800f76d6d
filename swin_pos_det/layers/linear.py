"""Linear layers whose bias, activation and residual are part of the matrix product."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tracing import is_exporting

# oneDNN adds bias, GELU or another tensor to each tile of the product while it is in a register. torch.compile uses
# these operators on the CPU; called directly they spare eager code three passes over the features.
_PRODUCT = getattr(torch.ops.mkldnn, '_linear_pointwise', None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, layer: nn.Linear, gelu: bool = False, residual: Optional[Tensor] = None) -> Tensor:
    """``layer(x)``, then the exact GELU if asked for, plus ``residual`` if given.

    The same result from one pass where oneDNN can: on the CPU, in float32 or bfloat16, without gradients.

    Args:
        x: (..., in_features).
        layer: its weight (out_features, in_features) and bias.
        gelu: apply GELU (not its tanh approximation).
        residual: (..., out_features), added last. Not with ``gelu``.

    Returns:
        (..., out_features).
    """
    dtype = _product_dtype(x, layer)
    if dtype is None:
        x = layer(x)
        x = F.gelu(x) if gelu else x
        return x if residual is None else residual + x
    weight, bias = layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
    x = x.to(dtype)
    if residual is not None and residual.dtype == dtype:
        return _PRODUCT.binary(x, residual.contiguous(), weight, bias, 'add')
    x = _PRODUCT(x, weight, bias, 'gelu' if gelu else 'none', [], 'none')
    return x if residual is None else residual + x


def _product_dtype(x: Tensor, layer: nn.Linear) -> Optional[torch.dtype]:
    """The dtype of the fused product, None where there is none or it would lose gradients."""
    if _PRODUCT is None or x.device.type != 'cpu' or not torch.backends.mkldnn.enabled or is_exporting():
        return None
    if torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad):
        return None
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None  # somebody's quantised, adapted or observed layer
    dtype = torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else x.dtype
    return dtype if dtype in (torch.float32, torch.bfloat16) else None
