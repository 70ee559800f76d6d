"""The gain of each optimization: the backbone with it on and off, measured in turns in one process."""
from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Callable, ContextManager, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import nn

from ...ops import use_impl
from ...ops.optimizations import without
from .cases import Case
from .models import VARIANTS
from .worker import PeakMemory

Switch = Callable[[], ContextManager]


@contextmanager
def without_cpu_inference() -> Iterator[None]:
    """Run blocks layer by layer."""
    before = os.environ.get('SWIN_POS_DET_CPU_INFERENCE')
    os.environ['SWIN_POS_DET_CPU_INFERENCE'] = '0'
    try:
        yield
    finally:
        del os.environ['SWIN_POS_DET_CPU_INFERENCE']
        if before is not None:
            os.environ['SWIN_POS_DET_CPU_INFERENCE'] = before


def _without(name: str) -> Switch:
    return lambda: without(name)


# For each mode: the name of an optimization -> the context that switches it off.
SWITCHES: Dict[str, Dict[str, Switch]] = {
    'forward': {
        'CPU inference': without_cpu_inference,
        'chunks': _without('chunks'),
        'unpadded windows': _without('unpadded'),
        'oneDNN': _without('onednn'),
        'bmm per head': _without('bmm'),
        'permuted merging weights': _without('merge_weights'),
    },
    'train': {
        'recomputed scores': lambda: use_impl('sdpa'),
        'GELU recomputation': _without('gelu_recompute'),
    },
}
# The cases of the record: (variant, case).
CASES: List[Tuple[str, Case]] = [
    *(('T', Case(window=window)) for window in (7, 12, 24)),
    ('T', Case(size=(224, 224))),
    ('nano', Case(size=(256, 256))),
    *(('T', Case(mode='train', window=window, size=(512, 512))) for window in (7, 12)),
]


@dataclass(frozen=True)
class Ablation:
    """The measurements of one case.

    Attributes:
        variant, case: of the backbone.
        seconds: of each run, by the optimization switched off; ``''`` for none.
        mib: peak memory by the same keys, measured in a fresh process each; empty for a forward.
    """

    variant: str
    case: Case
    seconds: Dict[str, List[float]]
    mib: Dict[str, float]

    def gain(self, name: str) -> float:
        """Return the median over rounds of the time without an optimization over the time with it."""
        return statistics.median(off / on for off, on in zip(self.seconds[name], self.seconds['']))


def ablate(variant: str, case: Case, repeats: int, memory: bool = True) -> Ablation:
    """Measure a backbone with everything on, and with each optimization off, in turns."""
    step, switches = _step(variant, case), {'': nullcontext, **SWITCHES[case.mode]}
    seconds: Dict[str, List[float]] = {name: [] for name in switches}
    per_turn = 1 if case.pixels > 10**5 else 5
    for turn in range(repeats + 1):
        for name, off in switches.items():
            with off():
                start = time.perf_counter()
                for _ in range(per_turn):
                    step()
                taken = (time.perf_counter() - start) / per_turn
            if turn:  # the first is a warm-up
                seconds[name].append(taken)
    mib = {}
    if memory and case.mode == 'train':
        for name in switches:
            with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
                mib[name] = pool.submit(_peak, variant, case, name, torch.get_num_threads()).result()
    return Ablation(variant, case, seconds, mib)


def _step(variant: str, case: Case) -> Callable[[], None]:
    from ...models import SwinPosTransformer
    torch.manual_seed(0)
    train = case.mode == 'train'
    model: nn.Module = SwinPosTransformer(**VARIANTS[variant], window_size=case.window, drop_path_rate=0.).train(train)
    images = torch.randn(case.batch, 3, *case.size)

    def step() -> None:
        with torch.set_grad_enabled(train):
            outs = model(images)
        if train:
            sum(out.square().mean() for out in outs).backward()
            model.zero_grad(set_to_none=True)
    return step


def _peak(variant: str, case: Case, name: str, threads: int) -> float:
    torch.set_num_threads(threads)
    step = _step(variant, case)
    with ({'': nullcontext, **SWITCHES[case.mode]}[name])():
        memory = PeakMemory(torch.device('cpu'))
        step()
        step()
    return float(memory.read() or 'nan')


def ablation_table(ablations: Sequence[Ablation]) -> str:
    """Return a Markdown table for each mode: time without an optimization over time with it; and peak memory."""
    lines: List[str] = []
    for mode, switches in SWITCHES.items():
        found = [ablation for ablation in ablations if ablation.case.mode == mode]
        if not found:
            continue
        titles = [f'Swin-{a.variant} w{a.case.window}, {a.case.size[0]}x{a.case.size[1]}' for a in found]
        lines += [f'| {mode}: switched off | ' + ' | '.join(titles) + ' |', '|---' * (len(found) + 1) + '|']
        lines.append('| nothing, seconds | ' + ' | '.join(
            f'{statistics.median(a.seconds[""]):.3f}{_memory(a, "")}' for a in found) + ' |')
        lines += [f'| {name} | ' + ' | '.join(f'{a.gain(name):.3f}{_memory(a, name)}' for a in found) + ' |'
                  for name in switches]
        lines.append('')
    return '\n'.join(lines)


def _memory(ablation: Ablation, name: str) -> str:
    return f' ({ablation.mib[name]:.0f} MiB)' if name in ablation.mib else ''
