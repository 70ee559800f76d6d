"""A check of an implementation on the machine that is to run it, once: a few windows against the formula.

A driver or compiler that fails, or makes wrong code, then costs speed and no wrong numbers.
"""
from __future__ import annotations

from types import ModuleType
from typing import Dict, Hashable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .position_bias import PositionBias
from .runtime import has_active_torch_mode, is_capturing, is_tracing, warn, without_autocast
from .windows import Pair, WindowPlan, window_plan

MAX_ERROR = 16  # of the norm of a result, in units of the rounding of the dtype
_passed: Dict[Hashable, bool] = {}


def passes(implementation: ModuleType, reference: ModuleType, qkv: Tensor, plan: WindowPlan,
           bias: Optional[PositionBias], num_heads: int, scale: float, pad: Optional[Tensor]) -> bool:
    """Return whether an implementation gives the reference's results for calls like this one; warn if it does not.

    Calls are alike if device, dtypes, the class of the window, a head's channels, and the kinds of masks are, and
    whether gradients are recorded. The first of them is checked on inputs made for that, and waits for the result; the
    others look it up. Calls that may not wait count as passed: while a graph is traced or captured, under modes, with
    fake tensors.
    """
    if is_tracing() or type(qkv) is not Tensor:
        return True
    spec, table = plan.spec, None if bias is None else bias.table
    # Code depends on the power of two that holds a window, see ops/triton/launch.py.
    alike = (qkv.device, qkv.dtype, None if table is None else table.dtype, None if pad is None else pad.dtype,
             (plan.area - 1).bit_length(), qkv.shape[2] // num_heads, spec.hide_padding, spec.valid is None,
             torch.is_grad_enabled())
    found = _passed.get(alike)
    if found is None:
        if has_active_torch_mode() or is_capturing():
            return True
        problem = _problem(implementation, reference, qkv, plan, table, num_heads, scale, pad)
        found = _passed[alike] = problem is None
        if problem is not None:
            name = implementation.__name__.rpartition('.')[2]
            warn(f'attention on {qkv.device} does without the implementation {name!r}, {problem}')
    return found


def _problem(implementation: ModuleType, reference: ModuleType, qkv: Tensor, plan: WindowPlan,
             table: Optional[Tensor], num_heads: int, scale: float, pad: Optional[Tensor]) -> Optional[str]:
    """Compare outputs, and gradients if they are recorded; return what is wrong."""
    spec, (height, width) = plan.spec, plan.window
    # Windows with and without masks. The last row and column of padding share windows and regions with tokens.
    size = 3 * height - 1, 3 * width - 1
    own = None if spec.valid is None else [(height + 1, width + 1)]
    numbers = qkv.shape[2] // num_heads  # of a head's queries, keys and values
    learn = torch.is_grad_enabled()
    # The hooks keep those around the call, such as recomputation's, from counting what is saved here.
    with torch.inference_mode(False), torch.set_grad_enabled(learn), without_autocast(qkv), \
            saved_tensors_hooks(lambda x: x, lambda x: x):
        alike = window_plan(1, size, plan.window, (height // 2, width // 2), qkv.device, spec.hide_padding, own)
        generator = torch.Generator(qkv.device).manual_seed(0)  # leaves the global one alone
        shapes = ((1, size[0] * size[1], numbers), (numbers, ), ((2 * height - 1) * (2 * width - 1), 1))
        likes = qkv, None if spec.hide_padding else pad, table
        inputs = [None if like is None else torch.randn(shape, generator=generator, device=qkv.device).to(like.dtype)
                  for shape, like in zip(shapes, likes)]
        exact = [None if x is None else x.float() for x in inputs]
        try:
            got, want = (_results(kind, x, alike, scale)
                         for kind, x in ((implementation, inputs), (reference, exact)))
            # Numbers are about 1, so a result of a norm below 1 is zeros and rounding: in windows of one token, the
            # gradient of the table.
            errors = [(a.float() - b).norm() / b.norm().clamp(min=1.) for a, b in zip(got, want)]
            error = torch.stack(errors).max().item()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as failure:  # of a compiler, a driver
            first = str(failure).strip().partition('\n')[0]
            return f'which fails here with {type(failure).__name__}: {first}'
    if error <= MAX_ERROR * torch.finfo(qkv.dtype).eps:  # not if NaN
        return None
    return f'which gives wrong results here: they differ by {error:.2g} of their norm'


def _results(implementation: ModuleType, inputs: Sequence[Optional[Tensor]], plan: WindowPlan,
             scale: float) -> List[Tensor]:
    """Return the output for real tokens, and the gradients of its weighted sum."""
    learned = [x.requires_grad_(torch.is_grad_enabled()) for x in inputs if x is not None]
    qkv, pad, table = inputs
    bias = None if table is None else PositionBias(plan.window, table=table)
    out = implementation.attention(qkv, plan, bias, 1, scale, pad, None, 0.)
    out = out * _real(plan.spec.valid, plan.spec.size, out)
    if not torch.is_grad_enabled():
        return [out]
    weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).view_as(out)
    # In windows of one token nothing depends on padding.
    return [out.detach(), *torch.autograd.grad(out, learned, weights, materialize_grads=True)]


def _real(valid: Optional[Tuple[Pair, ...]], size: Pair, like: Tensor) -> Tensor:
    """Return (1, L, 1) 1 for tokens of the image, 0 for the batch's padding, whose features do not matter."""
    real = like.new_ones(1, *size, 1)
    if valid is not None:
        real[:, valid[0][0]:] = 0
        real[:, :, valid[0][1]:] = 0
    return real.flatten(1, 2)
