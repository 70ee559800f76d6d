"""The process of one model, which builds it, runs it on command, and reports times or memory.

Commands are lines of JSON on stdin, answers are lines of JSON on the original stdout; everything that libraries print
goes to stderr. So several models, each in the environment of its library, can run in turns.
"""
from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import platform
import statistics
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch
from torch import Tensor

from .models import LIBRARIES, build_model

DTYPES = {'float32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
MIB = 2**20


class Cell:
    """One model on one input, the unit of timing.

    Args:
        name: of the model, see ``models.MODELS``.
        case: ``mode`` ('forward' or 'train'), ``window``, ``size``, ``batch``, ``dtype``, ``compiled``.
        variant: of the Swin.
        weights: path of its weights.
        device: 'cpu' or 'cuda'.
    """

    def __init__(self, name: str, case: Mapping[str, Any], variant: Mapping[str, Any], weights: str,
                 device: str) -> None:
        self.device = torch.device(device)
        self.train = case['mode'] == 'train'
        self.dtype = DTYPES[case['dtype']]
        self.model = build_model(name, variant, case['window'], tuple(case['size']), weights).to(self.device)
        self.model.train(self.train)
        self.run_model = torch.compile(self.model) if case['compiled'] else self.model
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(case['batch'], 3, *case['size'], generator=generator).to(self.device)

    def features(self) -> List[Tensor]:
        """Return float32 features in eager mode, to compare the results of models."""
        with torch.no_grad():
            return [out.cpu() for out in self.model(self.image)]

    def prepare(self) -> Callable[[], None]:
        """Return the step to time."""
        return self.step

    def step(self) -> None:
        """Run one forward under ``no_grad``, or one forward and backward."""
        with contextlib.ExitStack() as stack:
            if not self.train:
                stack.enter_context(torch.no_grad())
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, self.dtype))
            outs = self.run_model(self.image)
        if self.train:
            sum(out.float().square().mean() for out in outs).backward()
            for parameter in self.model.parameters():
                parameter.grad = None


def timed(prepare: Callable[[], Callable[[], None]], device: torch.device, seconds: float) -> List[float]:
    """Run what ``prepare`` returns once, and again until ``seconds`` have passed; return the seconds of each run.

    On CUDA the time is between two events on the stream, elsewhere it is wall-clock time.
    """
    samples: List[float] = []
    start = time.perf_counter()
    while not samples or time.perf_counter() - start < seconds:
        step = prepare()
        if device.type == 'cuda':
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            step()
            events[1].record()
            events[1].synchronize()
            samples.append(events[0].elapsed_time(events[1]) / 1000)
        else:
            before = time.perf_counter()
            step()
            samples.append(time.perf_counter() - before)
    return samples


def resident(field: str) -> Optional[float]:
    """Return MiB of ``VmRSS`` or of its peak ``VmHWM``; None where /proc has none.

    Not ``getrusage``: its peak is inherited from the process that started this one.
    """
    try:
        with open('/proc/self/status', encoding='ascii') as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith(f'{field}:'))
    except (OSError, StopIteration):
        return None


class PeakMemory:
    """Peak memory in MiB above the memory held before: of the allocator on CUDA, else resident in a fresh process.

    On the CPU the peak before counts: building a model may have needed more than it kept, and the allocator may reuse
    the rest. If the system allows it, the peak is reset to the memory held.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / MIB
            return
        with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
            file.write('5')
        self.before = resident('VmHWM')

    def read(self) -> Optional[float]:
        """Return MiB above the start."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() / MIB - self.before
        peak = resident('VmHWM')
        return None if peak is None or self.before is None else peak - self.before


class Worker:
    """Answers to commands; each public method is one."""

    def __init__(self, name: str, device: str, threads: int) -> None:
        self.name, self.device = name, torch.device(device)
        torch.set_num_threads(threads)
        self.cell: Any = None

    def about(self) -> Dict[str, Any]:
        """Versions and the device; fails where the library is not installed."""
        library = importlib.import_module(LIBRARIES[self.name])
        device = torch.cuda.get_device_name() if self.device.type == 'cuda' else None
        return dict(library=LIBRARIES[self.name], version=getattr(library, '__version__', ''),
                    torch=torch.__version__, python=platform.python_version(), device=device,
                    threads=torch.get_num_threads())

    def build(self, case: Mapping[str, Any], variant: Mapping[str, Any], weights: str) -> Dict[str, Any]:
        """Build the model for a case."""
        self.drop()
        self.cell = Cell(self.name, case, variant, weights, str(self.device))
        return {}

    def build_detector(self, case: Mapping[str, Any], weights: str) -> Dict[str, Any]:
        """Build a whole detector for a case."""
        from .detector import DetectorCell
        self.drop()
        self.cell = DetectorCell(self.name, case, weights, str(self.device))
        return {}

    def breakdown(self) -> Dict[str, Any]:
        """Return the seconds of each part of a detector's step, and how many objects it found."""
        return dict(parts=self.cell.breakdown(), found=self.cell.found)

    def count(self) -> Dict[str, Any]:
        """Return operators and waits of each part of a detector's step."""
        return dict(counts=self.cell.count())

    def drop(self) -> Dict[str, Any]:
        """Free the model."""
        self.cell = None
        if 'torch._dynamo' in sys.modules:  # importing it takes seconds
            torch._dynamo.reset()
        gc.collect()
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()
        return {}

    def features(self, path: str) -> Dict[str, Any]:
        """Save the model's features."""
        torch.save(self.cell.features(), path)
        return {}

    def run(self, seconds: float) -> Dict[str, Any]:
        """Run it for a while; seconds of each run."""
        return dict(seconds=timed(self.cell.prepare, self.device, seconds))

    def peak(self, steps: int = 2) -> Dict[str, Any]:
        """Return the MiB that the first runs need; of a compiled model those after compilation."""
        if self.cell.run_model is not self.cell.model:
            self.cell.prepare()()
        memory = PeakMemory(self.device)
        for _ in range(steps):
            self.cell.prepare()()
        return dict(mib=memory.read())

    def matmul(self, side: int, dtype: str, seconds: float) -> Dict[str, Any]:
        """Return the seconds of each product of two square matrices, by the faster of torch's two CPU libraries.

        This measures the machine's rate at this moment.
        """
        a, b = (torch.randn(side, side, device=self.device).to(DTYPES[dtype]) for _ in range(2))
        out, ways = torch.empty_like(a), [lambda: torch.mm(a, b, out=out)]
        with torch.no_grad():
            with contextlib.suppress(ImportError):  # another environment may lack this project
                from swin_pos_det.ops.cpu_inference.linear import prepared_linear
                multiply = prepared_linear(b, None, (side, ))
                ways.append(lambda: multiply(a))
            for way in ways:
                way()
            found = [timed(lambda way=way: way, self.device, seconds / len(ways)) for way in ways]
        return dict(seconds=min(found, key=statistics.median))


def main(arguments: Sequence[str]) -> None:
    """Serve until stdin ends. ``arguments``: model, device, threads."""
    name, device, threads = arguments
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    worker = Worker(name, device, int(threads))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop('do'))(**command)
        except Exception as error:  # any error of a library: the other models continue
            answer = dict(error=f'{type(error).__name__}: {" ".join(str(error).split())[:300]}')
        answers.write(json.dumps(answer) + '\n')
        answers.flush()
