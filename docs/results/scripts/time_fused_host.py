"""Time what a call of the fused kernel costs the host, without a GPU: kernels are launched into nothing.

Usage: python time_fused_host.py. Tensors are on the CPU. All ways run the same planning and allocations, which are
timed alone too (launch.forward, launch.backward). Not counted: triton's own launch, and what CUDA's allocator needs.
"""
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from swin_pos_det.ops import self_check
from swin_pos_det.ops.position_bias import PositionBias
from swin_pos_det.ops.triton import launch, operator, support
from swin_pos_det.ops.window_attention import use_impl, window_attention
from swin_pos_det.ops.windows import window_plan

KERNELS = ('forward_small', 'backward_small', 'forward_large', 'backward_queries', 'backward_keys', 'expand_table',
           'table_gradient', 'pad_gradient')
SIZE, WINDOW, SHIFT, HEADS, WIDTH = (15, 20), (7, 7), (3, 3), 1, 32
SETTINGS = SIZE, WINDOW, SHIFT, False, HEADS, WIDTH**-.5
ROUNDS, CALLS = 60, 50


class Nothing:
    """A kernel whose launch does nothing."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **constants: None


class Function(torch.autograd.Function):
    """No operator: invisible to torch.compile, FLOP counters and opcheck."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = launch.forward(*inputs)
        ctx.save_for_backward(*inputs[:4], *output)
        ctx.settings = inputs[4:]
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        grads = launch.backward(grad, *ctx.saved_tensors, *ctx.settings, *ctx.needs_input_grad[1:3])
        return (*grads, *(None, ) * 7)


@torch.library.custom_op('time_fused_host::attention', mutates_args=())
def custom(qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], sizes: Optional[Tensor], size: List[int],
           window: List[int], shift: List[int], hide: bool, num_heads: int, scale: float) -> Tuple[Tensor, Tensor]:
    """Do the same as torch.library.custom_op, the documented way."""
    return launch.forward(qkv, pad, table, sizes, size, window, shift, hide, num_heads, scale)


@torch.library.custom_op('time_fused_host::attention_backward', mutates_args=())
def custom_backward(grad: Tensor, qkv: Tensor, pad: Optional[Tensor], table: Optional[Tensor], out: Tensor, lse: Tensor,
                    size: List[int], window: List[int], shift: List[int], hide: bool, num_heads: int,
                    scale: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Its derivative."""
    return launch.backward(grad, qkv, pad, table, None, out, lse, size, window, shift, hide, num_heads, scale, True,
                           True)


def _save(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.settings = inputs[4:]


custom.register_autograd(
    lambda ctx, grad, _: (*custom_backward(grad, *ctx.saved_tensors, *ctx.settings), *(None, ) * 7),
    setup_context=_save)


def microseconds(call: Callable[[], Any]) -> Tuple[float, Any]:
    """Return the shortest mean time of a call, as other processes only add to it, and its last result."""
    times, result = [], None
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            result = call()
        times.append((time.perf_counter() - start) / CALLS * 1e6)
    return min(times), result


def main() -> None:
    """Print a Markdown table."""
    for name in KERNELS:
        setattr(launch, name, Nothing())
    support._unsupported_device = lambda qkv: None
    qkv = torch.zeros(1, SIZE[0] * SIZE[1], 3 * WIDTH, dtype=torch.float16)
    pad, table = torch.zeros(3 * WIDTH), torch.zeros((2 * WINDOW[0] - 1) * (2 * WINDOW[1] - 1), HEADS)
    plan = window_plan(1, SIZE, WINDOW, SHIFT, qkv.device)
    inputs = qkv, pad, table, None, *SETTINGS

    def attend() -> Tensor:
        with_bias = PositionBias(WINDOW, table=table)
        return window_attention(qkv, plan, with_bias, num_heads=HEADS, scale=SETTINGS[-1], pad=pad)

    def is_chosen() -> bool:
        bias = PositionBias(WINDOW, table=table)
        return support.unsupported(qkv, plan, bias, HEADS, SETTINGS[-1], pad, None, 0.) is None and self_check.passes(
            operator, operator, qkv, plan, bias, HEADS, SETTINGS[-1], pad)

    ways: Dict[str, Callable[[], Any]] = {
        'launch.forward, launch.backward': lambda: launch.forward(*inputs),
        'autograd.Function, no operator': lambda: Function.apply(*inputs),
        'ours: Function around Library.define': lambda: operator._EagerAttention.apply(*inputs),
        'torch.library.custom_op': lambda: custom(*inputs)[0]}
    print('| way | forward, no gradients | forward | backward |\n|---|---|---|---|')
    for name, way in ways.items():
        with torch.no_grad():
            plain, output = microseconds(way)
        if name.startswith('launch'):
            forward = plain
            backward, _ = microseconds(lambda output=output: launch.backward(
                output[0], *inputs[:4], *output, *SETTINGS, True, True))
        else:
            for tensor in (qkv, pad, table):
                tensor.requires_grad_()
            forward, out = microseconds(way)
            backward, _ = microseconds(
                lambda out=out: torch.autograd.grad(out, (qkv, pad, table), out, retain_graph=True))
            for tensor in (qkv, pad, table):
                tensor.requires_grad_(False)
        print(f'| {name} | {plain:.1f} | {forward:.1f} | {backward:.1f} |')
    with torch.no_grad(), use_impl('triton'):
        print(f'| window_attention with it, requested | {microseconds(attend)[0]:.1f} | | |')
        self_check._problem = lambda *_: None
        print(f'| whether to use it (support, self_check), each call | {microseconds(is_chosen)[0]:.1f} | | |')


if __name__ == '__main__':
    main()
