"""The fused kernel compiled for GPUs that are not here: registers, shared memory, loads, number of kernels.

What is compiled is what ``launch`` launches, in calls with tensors that have no data.
"""
from __future__ import annotations

import re
import subprocess
from itertools import product
from typing import Any, Dict, List, NamedTuple, Tuple

import pytest
import torch

triton = pytest.importorskip('triton', reason='triton is not installed (requirements/triton.txt)')
from swin_pos_det.ops.triton import launch  # noqa: E402  only after the skip where triton is missing
from swin_pos_det.ops.triton.support import INTERPRETED, MAX_TOKENS  # noqa: E402  imports triton too

from .interpreted import version_of  # noqa: E402  local imports come last

pytestmark = pytest.mark.skipif(INTERPRETED, reason='the interpreter compiles nothing')

KERNELS = ('forward_small', 'backward_small', 'forward_large', 'backward_queries', 'backward_keys', 'expand_table',
           'table_gradient', 'pad_gradient')
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # of a program, at most (CUDA C++ programming guide, table 21)
# Bytes of a thread that programs spill at most. Those of backward_keys hold the sums of logits' gradients of 32 keys
# and all queries, and use all 255 registers. Measured with triton 3.9.0, and with 3.7.1, which orders loads otherwise.
MAX_SPILLED = dict(backward_keys=16 if version_of('triton') >= (3, 9) else 24)
# Tiles of tokens' channels that a kernel loads.
TILES = dict(forward_small=3, backward_small=4, forward_large=3, backward_queries=5, backward_keys=4)


class Launch(NamedTuple):
    """A kernel's name, its arguments by name, and options of the compiler."""

    name: str
    arguments: Dict[str, Any]
    options: Dict[str, Any]

    @property
    def code(self) -> Tuple[Any, ...]:
        """What distinguishes compiled code: triton specializes on dtypes, on constants, and on numbers it may."""
        kernel = getattr(launch, self.name)
        described = []
        for parameter in kernel.params:
            value = self.arguments[parameter.name]
            if isinstance(value, torch.Tensor):
                described.append(value.dtype)
            elif parameter.is_constexpr:
                described.append(str(value))
            elif not parameter.do_not_specialize:
                described.append((value % 16 == 0, value == 1))
        return self.name, *described


@pytest.fixture
def launches(monkeypatch) -> List[Launch]:
    """Record launches instead of doing them."""
    found = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(launch, name)

        def __getitem__(self, grid: Any) -> Any:
            def record(*values: Any, **named: Any) -> None:
                assert all(isinstance(blocks, int) and blocks > 0 for blocks in grid)
                arguments = dict(zip(self.kernel.arg_names, values))
                options = {key: named.pop(key) for key in list(named) if key not in self.kernel.arg_names}
                found.append(Launch(self.name, {**arguments, **named}, options))
            return record

        params = property(lambda self: self.kernel.params)
        arg_names = property(lambda self: self.kernel.arg_names)

    for name in KERNELS:
        monkeypatch.setattr(launch, name, Recorder(name))
    return found


def train(size=(13, 17), window=(7, 7), shift=(3, 3), batch=2, heads=3, channels=32, dtype=torch.float16,
          mask='', table=True) -> None:
    """Go forward and backward; ``mask`` is '', 'windows' or 'batch' to hide their padding."""
    def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device='meta')
    width, length = heads * channels, size[0] * size[1]
    has_pad = not mask and any(side % step for side, step in zip(size, window))
    tensors = (new(batch, length, 3 * width, dtype=dtype), new(3 * width) if has_pad else None,
               new((2 * window[0] - 1) * (2 * window[1] - 1), heads) if table else None,
               new(batch, 2, dtype=torch.int32) if mask == 'batch' else None)
    settings = size, window, shift, bool(mask), heads, channels**-.5
    out, lse = launch.forward(*tensors, *settings)
    launch.backward(out, *tensors, out, lse, *settings, has_pad, table)


def compiled(found: Launch, capability: int) -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kernel = getattr(launch, found.name).kernel
    types = {torch.float16: '*fp16', torch.bfloat16: '*bf16', torch.float32: '*fp32', torch.int32: '*i32'}
    signature, constants, aligned = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = found.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = 'constexpr', value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = types[value.dtype]
        else:
            signature[parameter.name] = 'i32'
        if isinstance(value, torch.Tensor) or not (
                parameter.is_constexpr or parameter.do_not_specialize or value % 16):
            aligned[(index, )] = [['tt.divisibility', 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32), options=found.options)


def usage(code: Any, folder: Any) -> Tuple[int, int]:
    """Return the registers of a thread, and its bytes of local memory, where registers are spilled to."""
    path = folder / 'kernel.cubin'
    path.write_bytes(code.asm['cubin'])
    text = subprocess.run([triton.knobs.nvidia.cuobjdump.path, '-res-usage', str(path)], check=True, text=True,
                          stdout=subprocess.PIPE).stdout
    return int(re.search(r'REG:(\d+)', text)[1]), int(re.search(r'STACK:(\d+)', text)[1])


CASES = {
    'window 7': dict(),
    'window 12': dict(size=(29, 31), window=(12, 12), shift=(6, 6)),
    'window 16': dict(size=(40, 50), window=(16, 16), shift=(8, 8)),
    'window 7, mask the batch': dict(mask='batch'),
    'window 12, mask the batch': dict(size=(29, 31), window=(12, 12), shift=(6, 6), mask='batch'),
    'window 7, no padding': dict(size=(14, 21)),
    'window 12, no padding': dict(size=(24, 36), window=(12, 12), shift=(6, 6)),
}


@pytest.mark.parametrize(('case', 'capability', 'dtype'), [
    each for each in product(CASES, SHARED_MEMORY, (torch.float16, torch.bfloat16))
    if 'no padding' not in each[0] or each[1:] == (90, torch.float16)], ids=str)  # a case takes up to 8 s
def test_kernels_fit_the_card(launches, tmp_path, case, capability, dtype):
    train(dtype=dtype, **CASES[case])
    for found in {found.code: found for found in launches}.values():
        code = compiled(found, capability)
        registers, spilled = usage(code, tmp_path)
        print(f'sm_{capability} {case} {str(dtype)[6:]} {found.name} {"edge" if found.arguments.get("EDGE") else ""}: '
              f'{registers} registers, {code.metadata.shared} bytes shared')
        assert spilled <= MAX_SPILLED.get(found.name, 0), (found.name, registers, spilled)
        assert code.metadata.shared <= SHARED_MEMORY[capability], found.name
        wide = re.findall(r'cp\.async\S* .*, 0x10|ld\.global\S*v4\.b32', code.asm['ptx'])
        assert len(wide) >= TILES.get(found.name, 0), f'{found.name} loads no 16 bytes at once'


def test_sizes_are_not_compiled_in(launches):
    """Images, windows, shifts, heads and batches of a model share code; a size class of windows has its own."""
    codes = []
    for changed in (dict(), dict(size=(100, 168)), dict(size=(200, 336), shift=(0, 0)),
                    dict(window=(5, 9), shift=(2, 4)), dict(window=(8, 8), shift=(4, 4), size=(25, 42)),
                    dict(batch=1, heads=24), dict(batch=16, heads=6)):
        launches.clear()
        train(**changed)
        codes.append({found.code for found in launches})
    assert all(code <= codes[0] for code in codes), [code - codes[0] for code in codes]
    assert len(codes[0]) == 7, 'forward and backward of interior and edge windows, bias, its gradient, that of padding'


def test_a_call_does_few_launches(launches):
    train(size=(14, 21), shift=(0, 0))
    assert [found.name for found in launches] == ['forward_small', 'expand_table', 'backward_small', 'table_gradient']


@pytest.mark.parametrize(('size', 'window', 'shift', 'own_sizes', 'counts'), [
    ((14, 21), (7, 7), (0, 0), False, (6, 0)),
    ((14, 21), (7, 7), (3, 3), False, (2, 4)),  # the last row and column
    ((15, 21), (7, 7), (0, 0), False, (6, 3)),
    ((15, 21), (7, 7), (3, 0), False, (3, 6)),  # padding reaches two rows: it is one token high, the shift three
    ((3, 5), (7, 7), (3, 3), False, (0, 1)),
    ((14, 21), (7, 7), (0, 0), True, (0, 6)),
])
def test_windows_without_masks(size, window, shift, own_sizes, counts):
    assert launch.count_windows(1, size, window, shift, own_sizes) == counts


def test_no_tile_of_a_large_window_reads_beyond_the_expanded_bias():
    for area in range(launch.MAX_SMALL + 1, MAX_TOKENS + 1):
        side = launch.block_of(area)
        for covered in (*(sum(launch.query_blocks(area, edge)) for edge in (False, True)),
                        *(triton.cdiv(area, block) * block for block in (launch.BLOCK_Q, launch.BLOCK_K))):
            assert area <= covered <= side, area
