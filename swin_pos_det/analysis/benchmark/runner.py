"""Running the cases: build every model, check that all compute the same, and time them in turns."""
from __future__ import annotations

import os
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

import torch

from .cases import Case, DetectorCase
from .detector import DETECTORS, write_detector_weights
from .models import VARIANTS
from .pool import Pool, Process, WorkerError
from .weights import write_weights

# Features are normalised; two correct Swin-T differ by some 1e-5 in float32.
AGREEMENT = 1e-3
AnyCase = Union[Case, DetectorCase]
GIB = 2**30


@dataclass
class Settings:
    """The settings of a measurement.

    Attributes:
        variant: of the Swin, see ``VARIANTS``.
        repeats: turns of each model.
        seconds: the shortest turn; at least one run.
        warm_up: runs before the first turn; two more if the model is compiled.
        time: measure time.
        memory: measure peak memory, on the CPU each in a fresh process, and of eager models only.
        matmul: side of the matrices whose product measures the machine's rate.
        checkpoint: trained weights of a detector; default: random ones.
    """

    variant: str = 'T'
    repeats: int = 5
    seconds: float = 0.2
    warm_up: int = 2
    time: bool = True
    memory: bool = False
    matmul: int = 2048
    checkpoint: Optional[str] = None


@dataclass
class Row:
    """One model on one case.

    Attributes:
        case: the case.
        model: its name.
        seconds: of each run.
        mib: peak memory above the memory held before.
        difference: greatest absolute difference of its features from the first model's, float32, eager.
        error: why there is no measurement.
        parts: of a detector, the seconds of each part, for each of some steps.
        counts: of a detector, operators and waits of each part of a step.
        found: of a detector, objects per image.
    """

    case: AnyCase
    model: str
    seconds: List[float] = field(default_factory=list)
    mib: Optional[float] = None
    difference: Optional[float] = None
    error: Optional[str] = None
    parts: List[Dict[str, float]] = field(default_factory=list)
    counts: Dict[str, List[int]] = field(default_factory=dict)
    found: Optional[float] = None

    @property
    def median(self) -> Optional[float]:
        """Return the median of the times, in seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def medians(self) -> Dict[str, float]:
        """The seconds of each part, medians."""
        names = dict.fromkeys(name for parts in self.parts for name in parts)
        return {name: statistics.median(parts.get(name, 0.) for parts in self.parts) for name in names}

    @property
    def quartiles(self) -> Optional[List[float]]:
        """Return the first and third quartile of the times, in seconds."""
        if not self.seconds:
            return None
        if len(self.seconds) == 1:
            return self.seconds * 2
        return statistics.quantiles(self.seconds, n=4, method='inclusive')[::2]

    def asdict(self) -> Dict[str, Any]:
        """Return a dict for JSON."""
        return dict(self.case.asdict(), model=self.model, seconds=self.seconds, median=self.median,
                    quartiles=self.quartiles, mib=self.mib, difference=self.difference, error=self.error,
                    parts=self.parts, counts=self.counts, found=self.found)


class Benchmark:
    """A measurement of cases with the processes of a pool.

    Args:
        pool: of the models.
        settings: of the measurement.
        tell: called with a line before each step, for a progress bar.
    """

    def __init__(self, pool: Pool, settings: Settings, tell: Callable[[str], None] = lambda line: None) -> None:
        self.pool, self.settings, self.tell = pool, settings, tell
        self.variant = VARIANTS[settings.variant]
        self.products: Dict[str, List[float]] = {}  # seconds of matrix products, for each dtype
        self._folder = tempfile.TemporaryDirectory()
        self._weights: Dict[Any, Mapping[str, str]] = {}
        self._agreement: Dict[Any, Dict[str, str]] = {}  # of a window, the models that compute something else

    def __enter__(self) -> Benchmark:
        return self

    def __exit__(self, *_: Any) -> None:
        self._folder.cleanup()

    def weights(self, case: AnyCase) -> Mapping[str, str]:
        """Return, for each model that can run the case, the path of its weights; all are the same weights."""
        if isinstance(case, DetectorCase):
            key, names = case.config, [name for name in self.pool.names if name in DETECTORS]
        else:
            key = case.window
            names = [name for name in self.pool.names if case.window != 'global' or name == 'ours']
        if key not in self._weights:
            folder = Path(self._folder.name)
            if isinstance(case, DetectorCase):
                path = str(folder / f'detector_{len(self._weights)}.pth')
                write_detector_weights(case.config, path, self.settings.checkpoint)
                self._weights[key] = dict.fromkeys(names, path)
            else:
                self._weights[key] = write_weights(folder, self.variant, case.window, names)
        return self._weights[key]

    def measure(self, case: AnyCase) -> List[Row]:
        """Measure all models on one case; record the error of one that fails, and continue with the others."""
        paths = self.weights(case)
        rows = {name: Row(case, name) for name in paths}
        lack = self._lacking_memory(case)
        if lack:
            for row in rows.values():
                row.error = lack
            return list(rows.values())
        if self.settings.time:
            self._time(case, rows, paths)
        # Resident memory after a compilation has room for later steps, so their peak would not show.
        if self.settings.memory and not (case.compiled and self.pool.device != 'cuda'):
            for row in rows.values():
                if row.error is None:
                    self._guard(row, lambda row=row: self._peak(row, paths[row.model]))
        return list(rows.values())

    def _time(self, case: AnyCase, rows: Mapping[str, Row], paths: Mapping[str, str]) -> None:
        if isinstance(case, Case) and case.window != 'global':
            for name, why in self._disagreeing(case.window).items():
                rows[name].error = why
        for name, row in rows.items():
            if row.error is None:
                self.tell(f'{case}: {name}, warm-up')
                self._guard(row, lambda name=name: self._warm(name, case, paths[name]))
        self._compare(rows)
        for turn in range(self.settings.repeats):
            self._multiply(case.dtype)
            running = [row for row in rows.values() if row.error is None]
            shift = turn % max(1, len(running))
            for row in running[shift:] + running[:shift]:  # each is the first in some turn
                self.tell(f'{case}: {row.model}, turn {turn + 1} of {self.settings.repeats}')
                self._guard(row, lambda row=row: self._turn(row))
        for row in rows.values():
            if isinstance(case, DetectorCase) and case.mode == 'train' and row.error is None:
                self._guard(row, lambda row=row: row.counts.update(
                    self.pool.processes[row.model].ask('count')['counts']))
        for name in rows:
            self.pool.processes[name].ask('drop')

    def _build(self, process: Process, case: AnyCase, weights: str) -> None:
        if isinstance(case, DetectorCase):
            process.ask('build_detector', case=case.asdict(), weights=weights)
        else:
            process.ask('build', case=case.asdict(), variant=self.variant, weights=weights)

    def _warm(self, name: str, case: AnyCase, weights: str) -> None:
        process = self.pool.processes[name]
        self._build(process, case, weights)
        process.ask('features', path=self._features(name))
        for _ in range(self.settings.warm_up + 2 * case.compiled):
            process.ask('run', seconds=0)

    def _disagreeing(self, window: int) -> Dict[str, str]:
        """Return the models that do not compute the first model's features where they should, and why.

        They should if all maps divide by windows and are larger than one: otherwise libraries pad and shift
            differently.
        It uses a nano Swin, which takes little time; weights are loaded strictly anyway.
        """
        if window not in self._agreement and len(self.pool.names) > 1:
            self.tell(f'window {window}: whether all compute the same')
            case = Case('forward', window, (64 * window, 64 * window))
            folder = Path(self._folder.name) / f'nano_{window}'
            folder.mkdir()
            rows = {name: Row(case, name) for name in self.pool.names}
            for name, path in write_weights(folder, VARIANTS['nano'], window, rows).items():
                self._guard(rows[name], lambda name=name, path=path: self._save_features(
                    name, dict(case=case.asdict(), variant=VARIANTS['nano'], weights=path)))
            self._compare(rows)
            for row in rows.values():
                if row.error is None and row.difference > AGREEMENT:
                    row.error = f'computes another function than {self.pool.names[0]}: differs by {row.difference:.1e}'
            self._agreement[window] = {name: row.error for name, row in rows.items() if row.error is not None}
        return self._agreement.get(window, {})

    def _save_features(self, name: str, build: Mapping[str, Any]) -> None:
        process = self.pool.processes[name]
        process.ask('build', **build)
        process.ask('features', path=self._features(name))

    def _multiply(self, dtype: str) -> None:
        """Time matrix products in turn with the models, to measure the machine's speed at this moment."""
        process = self.pool.processes[self.pool.names[0]]
        answer = process.ask('matmul', side=self.settings.matmul, dtype=dtype, seconds=self.settings.seconds)
        self.products.setdefault(dtype, []).extend(answer['seconds'])

    def _compare(self, rows: Mapping[str, Row]) -> None:
        """Check that the models compute the same, before any is timed."""
        running = [row for row in rows.values() if row.error is None]
        if not running:
            return
        reference = torch.load(self._features(running[0].model), weights_only=True)
        for row in running:
            features = torch.load(self._features(row.model), weights_only=True)
            shapes, wanted = ([tuple(out.shape[-2:]) for out in outs] for outs in (features, reference))
            if shapes != wanted:
                row.error = f'gives features of other sizes: {shapes}, not {wanted}'
            else:
                row.difference = max(float((a - b).abs().max()) for a, b in zip(features, reference))

    def _turn(self, row: Row) -> None:
        process = self.pool.processes[row.model]
        row.seconds.extend(process.ask('run', seconds=self.settings.seconds)['seconds'])
        if isinstance(row.case, DetectorCase):
            answer = process.ask('breakdown')
            row.parts.append(answer['parts'])
            row.found = answer['found']

    def _peak(self, row: Row, weights: str) -> None:
        self.tell(f'{row.case}: {row.model}, memory')
        # CUDA's allocator can reset its peak; the resident memory of a process keeps traces of earlier peaks.
        fresh = self.pool.device != 'cuda'
        process = self.pool.fresh(row.model) if fresh else self.pool.processes[row.model]
        try:
            self._build(process, row.case, weights)
            row.mib = process.ask('peak')['mib']
        finally:
            if fresh:
                process.close()
            else:
                process.ask('drop')

    def _lacking_memory(self, case: AnyCase) -> Optional[str]:
        """Return why a case is not run: a bias over the whole map grows with the square of its pixels."""
        if not isinstance(case, Case) or case.window != 'global':
            return None
        needed = 3 * 4 * self.variant['num_heads'][0] * (case.size[0] * case.size[1] // 16)**2
        free = _free_memory()
        if free is None or needed < free / 2:
            return None
        return f'not run: attention over the whole map would take {needed / GIB:.0f} GiB or more'

    def _guard(self, row: Row, step: Callable[[], None]) -> None:
        try:
            step()
        except WorkerError as error:
            row.error = str(error)
            if 'died' in row.error:
                self.pool.restart(row.model)

    def _features(self, name: str) -> str:
        return str(Path(self._folder.name) / f'features_{name}.pth')

    def rates(self) -> Dict[str, float]:
        """Return FLOP/s of matrix products of each dtype, the median over the run."""
        return {dtype: 2 * self.settings.matmul**3 / statistics.median(seconds)
                for dtype, seconds in self.products.items()}


def _free_memory() -> Optional[int]:
    """Return the free bytes of the machine's memory; None where the system does not report them."""
    try:
        return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError, AttributeError):
        return None


def run(cases: Sequence[AnyCase], benchmark: Benchmark, done: Callable[[int], None] = lambda n: None) -> List[Row]:
    """Measure all cases; ``done`` is called after each."""
    rows: List[Row] = []
    for case in cases:
        rows += benchmark.measure(case)
        done(1)
    return rows
