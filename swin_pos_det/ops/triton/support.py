"""When the kernel can be used, and if not, why."""
from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Optional

import torch
from torch import Tensor

from ..heads import Rotation
from ..position_bias import PositionBias
from ..runtime import is_exporting, is_tracing, is_transformed
from ..windows import WindowPlan

MAX_TOKENS = 256  # of a window, so that a program of the backward pass holds all queries of a window and head
MAX_HEAD_CHANNELS = 32  # as in every published Swin; with 64 the backward pass has too few registers
MAX_NUMBERS = 2**31  # of an image's queries, keys and values: the kernel's offsets within an image are int32
MIN_CAPABILITY = (8, 0)  # bfloat16 and asynchronous copies
# triton's interpreter runs kernels on a CPU, for tests. triton reads the variable when it is imported.
INTERPRETED = os.environ.get('TRITON_INTERPRET', '').lower() in ('1', 'true', 'yes', 'on', 'y')
HAS_TRITON = find_spec('triton') is not None
HAS_LIBRARY = hasattr(torch.library, 'register_autograd')  # torch 2.4


def unsupported(qkv: Tensor, plan: WindowPlan, bias: Optional[PositionBias], num_heads: int, scale: float,
                pad: Optional[Tensor], rotate: Optional[Rotation], dropout: float) -> Optional[str]:
    """Return the reason why the kernel does not support the arguments of window_attention; None if it does."""
    if dropout:
        return 'dropout on attention weights'
    if rotate is not None:
        return 'queries and keys that are rotated by their places'
    if bias is not None and bias.table is None:
        return 'a position bias that is not a table of offsets'
    if plan.area > MAX_TOKENS:
        return f'windows of more than {MAX_TOKENS} tokens, such as {plan.window[0]}x{plan.window[1]}'
    if qkv.shape[2] > 3 * MAX_HEAD_CHANNELS * num_heads:
        return f'more than {MAX_HEAD_CHANNELS} channels in a head, such as {qkv.shape[2] // 3 // num_heads}'
    if qkv.shape[1] * qkv.shape[2] >= MAX_NUMBERS:
        return f'maps of {qkv.shape[1]} tokens of {qkv.shape[2] // 3} channels'
    return _unsupported_device(qkv) or _unsupported_run()


def _unsupported_device(qkv: Tensor) -> Optional[str]:
    if not INTERPRETED:
        if qkv.device.type != 'cuda':
            return f'tensors on {qkv.device.type}, only on CUDA devices'
        if qkv.dtype not in (torch.float16, torch.bfloat16):
            return f'{str(qkv.dtype)[6:]}, only float16 and bfloat16'
        return unsupported_gpu(qkv.device.index)
    return 'CUDA tensors in its interpreter (TRITON_INTERPRET)' if qkv.device.type == 'cuda' else None


@torch.compiler.assume_constant_result
def unsupported_gpu(index: Optional[int]) -> Optional[str]:
    """Return the reason why a CUDA device cannot run the kernel; None if it can."""
    if not torch.cuda.is_available():
        return 'CUDA tensors without a CUDA device'
    return _unsupported_gpu(torch.cuda.current_device() if index is None else index)


@cache
def _unsupported_gpu(index: int) -> Optional[str]:
    if torch.version.hip is not None:
        return 'AMD GPUs'
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        return 'GPUs older than sm_{}{}: this one is sm_{}{}'.format(*MIN_CAPABILITY, *capability)
    return None


def _unsupported_run() -> Optional[str]:
    if not HAS_TRITON:
        return 'Python environments without triton (pip install triton)'
    if not HAS_LIBRARY:
        return f'torch {torch.__version__}, only torch 2.4 and newer'
    if is_exporting():
        return 'graphs for other runtimes (export, torch.jit.trace)'
    if not is_tracing() and is_transformed():
        return 'transformations of torch.func and forward-mode derivatives'
    return None
