"""Calls of the fused kernel, and of the reference with the same arguments in float64."""
from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

import torch
from torch import Tensor

from swin_pos_det.ops import use_impl
from swin_pos_det.ops.position_bias import PositionBias, table_size
from swin_pos_det.ops.window_attention import window_attention
from swin_pos_det.ops.windows import WindowPlan, window_plan


class Case(NamedTuple):
    """A map and its partition: ``padding`` is 'attend', 'mask', or 'batch' to mask the batch's padding too."""

    batch: int
    size: tuple
    window: tuple
    shift: tuple
    heads: int = 1
    channels: int = 16
    padding: str = 'attend'
    table: bool = True
    pad: bool = True

    @property
    def valid(self) -> Optional[list]:
        if self.padding != 'batch':
            return None
        return [(max(1, self.size[0] - 3 * image), max(1, self.size[1] - 2)) for image in range(self.batch)]

    def plan(self) -> WindowPlan:
        return window_plan(self.batch, self.size, self.window, self.shift, torch.device('cpu'),
                           self.padding != 'attend', self.valid)

    def inputs(self, dtype: torch.dtype) -> Dict[str, Tensor]:
        """Tokens of ``dtype``, and parameters in float32 at least, as under autocast."""
        exact, width = torch.promote_types(dtype, torch.float32), self.heads * self.channels
        offsets = table_size(self.window)
        inputs = dict(qkv=torch.randn(self.batch, self.size[0] * self.size[1], 3 * width).to(dtype) * 1.5)
        if self.table:
            inputs['table'] = torch.randn(offsets[0] * offsets[1], self.heads, dtype=exact)
        if self.pad and self.padding == 'attend' and self.plan().pad_mask is not None:
            inputs['pad'] = torch.randn(3 * width, dtype=exact)
        return inputs

    def real(self) -> Tensor:
        """(B, L, 1) 1 for tokens of the images, 0 for the batch's padding, whose features the backbone zeroes."""
        real = torch.ones(self.batch, *self.size, 1, dtype=torch.float64)
        for image, (height, width) in enumerate(self.valid or []):
            real[image, height:] = 0
            real[image, :, width:] = 0
        return real.flatten(1, 2)


def attend(name: str, case: Case, inputs: Dict[str, Tensor]) -> Tensor:
    bias = PositionBias(case.window, table=inputs['table']) if 'table' in inputs else None
    with use_impl(name):
        return window_attention(inputs['qkv'], case.plan(), bias, num_heads=case.heads, scale=case.channels**-.5,
                                pad=inputs.get('pad'))


def results(name: str, case: Case, inputs: Dict[str, Tensor], weights: Tensor) -> Dict[str, Tensor]:
    """Return the output, and the gradients of its weighted sum with respect to the inputs."""
    inputs = {key: value.detach().clone().requires_grad_() for key, value in inputs.items()}
    out = attend(name, case, inputs)
    grads = torch.autograd.grad(out, list(inputs.values()), weights.to(out.dtype))
    return dict(zip(inputs, grads), out=out.detach() * case.real().to(out.dtype))


def errors(case: Case, dtype: torch.dtype) -> Dict[str, Any]:
    """Return the largest error of the output and each gradient, relative to the largest number in it, or to 1."""
    inputs = case.inputs(dtype)
    weights = torch.randn(case.batch, case.size[0] * case.size[1], case.heads * case.channels) * case.real()
    weights = weights.to(dtype)
    want = results('reference', case, {key: value.double() for key, value in inputs.items()}, weights)
    got = results('triton', case, inputs, weights)
    return {key: ((got[key].double() - want[key]).abs().max() / want[key].abs().max().clamp(min=1.)).item()
            for key in want}
