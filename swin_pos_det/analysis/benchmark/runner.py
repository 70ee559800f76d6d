"""Runs the cases: builds every model, checks that they compute the same, and times them in turns."""
from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch

from .cases import Case
from .models import VARIANTS
from .pool import Pool, WorkerError
from .weights import write_weights

# Features are normalised, so of size 1. In float32 two correct Swin-T differ by some 1e-5.
AGREEMENT = 1e-3


@dataclass
class Settings:
    """How it is measured.

    Attributes:
        variant: of the Swin, see ``VARIANTS``.
        repeats: turns of each model.
        seconds: a turn lasts at least so long, and one run.
        warm_up: runs before the first turn.
        time: measure time.
        memory: measure peak memory, each in a fresh process.
        matmul: side of the matrices whose product tells what the machine can do.
    """

    variant: str = 'T'
    repeats: int = 5
    seconds: float = 0.2
    warm_up: int = 2
    time: bool = True
    memory: bool = False
    matmul: int = 2048


@dataclass
class Row:
    """One model on one case.

    Attributes:
        case: what ran.
        model: its name.
        seconds: of each run.
        mib: peak memory beyond what was held before.
        difference: greatest absolute difference of its features from the first model's, float32, eager.
        error: why there is no measurement.
    """

    case: Case
    model: str
    seconds: List[float] = field(default_factory=list)
    mib: Optional[float] = None
    difference: Optional[float] = None
    error: Optional[str] = None

    @property
    def median(self) -> Optional[float]:
        """Of the seconds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def quartiles(self) -> Optional[List[float]]:
        """The first and third of the seconds."""
        if not self.seconds:
            return None
        if len(self.seconds) == 1:
            return self.seconds * 2
        return statistics.quantiles(self.seconds, n=4, method='inclusive')[::2]

    def asdict(self) -> Dict[str, Any]:
        """For JSON."""
        return dict(self.case.asdict(), model=self.model, seconds=self.seconds, median=self.median,
                    quartiles=self.quartiles, mib=self.mib, difference=self.difference, error=self.error)


class Benchmark:
    """Measures cases with the processes of a pool.

    Args:
        pool: of the models.
        settings: how.
        tell: called with a line for each step, for a progress bar.
    """

    def __init__(self, pool: Pool, settings: Settings, tell: Callable[[str], None] = lambda line: None) -> None:
        self.pool, self.settings, self.tell = pool, settings, tell
        self.variant = VARIANTS[settings.variant]
        self.products: Dict[str, List[float]] = {}  # seconds of matrix products, for each dtype
        self._folder = tempfile.TemporaryDirectory()
        self._weights: Dict[Any, Mapping[str, str]] = {}

    def close(self) -> None:
        """Delete the weights."""
        self._folder.cleanup()

    def weights(self, window: Any) -> Mapping[str, str]:
        """Paths of the weights for a window."""
        if window not in self._weights:
            names = [name for name in self.pool.names if window != 'global' or name == 'ours']
            self._weights[window] = write_weights(Path(self._folder.name), self.variant, window, names)
        return self._weights[window]

    def measure(self, case: Case) -> List[Row]:
        """All models on one case; one that fails says why, and the others go on."""
        paths = self.weights(case.window)
        rows = {name: Row(case, name) for name in self.pool.names if name in paths}
        if self.settings.time:
            self._time(case, rows, paths)
        if self.settings.memory:
            for row in rows.values():
                self._guard(row, lambda row=row: self._peak(row, paths[row.model]))
        return list(rows.values())

    def _time(self, case: Case, rows: Dict[str, Row], paths: Mapping[str, str]) -> None:
        for name, row in rows.items():
            self.tell(f'{case}: {name}, warm-up')
            self._guard(row, lambda name=name: self._warm(name, case, paths[name]))
        self._compare(rows)
        for turn in range(self.settings.repeats):
            self._multiply(case.dtype)
            running = [row for row in rows.values() if row.error is None]
            shift = turn % max(1, len(running))
            for row in running[shift:] + running[:shift]:  # each is the first in some turn
                self.tell(f'{case}: {row.model}, turn {turn + 1} of {self.settings.repeats}')
                self._guard(row, lambda row=row: row.seconds.extend(
                    self.pool.processes[row.model].ask('run', seconds=self.settings.seconds)['seconds']))
        for name in rows:
            self.pool.processes[name].ask('drop')

    def _warm(self, name: str, case: Case, weights: str) -> None:
        process = self.pool.processes[name]
        process.ask('build', case=case.asdict(), variant=self.variant, weights=weights)
        process.ask('features', path=self._features(name))
        for _ in range(self.settings.warm_up + 2 * case.compiled):
            process.ask('run', seconds=0)

    def _multiply(self, dtype: str) -> None:
        """Matrix products in turn with the models: what the machine can do at this moment."""
        process = self.pool.processes[self.pool.names[0]]
        answer = process.ask('matmul', side=self.settings.matmul, dtype=dtype, seconds=self.settings.seconds)
        self.products.setdefault(dtype, []).extend(answer['seconds'])

    def _compare(self, rows: Mapping[str, Row]) -> None:
        running = [row for row in rows.values() if row.error is None]
        if not running:
            return
        reference = torch.load(self._features(running[0].model), weights_only=True)
        for row in running:
            features = torch.load(self._features(row.model), weights_only=True)
            row.difference = max(float((a - b).abs().max()) for a, b in zip(features, reference))

    def _peak(self, row: Row, weights: str) -> None:
        self.tell(f'{row.case}: {row.model}, memory')
        process = self.pool.fresh(row.model)
        try:
            process.ask('build', case=row.case.asdict(), variant=self.variant, weights=weights)
            row.mib = process.ask('peak')['mib']
        finally:
            process.close()

    def _guard(self, row: Row, step: Callable[[], None]) -> None:
        try:
            step()
        except WorkerError as error:
            row.error = str(error)
            if 'died' in row.error:
                self.pool.restart(row.model)

    def _features(self, name: str) -> str:
        return str(Path(self._folder.name) / f'features_{name}.pth')

    def rate(self, dtype: str) -> Optional[float]:
        """FLOP/s of matrix products of a dtype, the median over the run."""
        seconds = self.products.get(dtype)
        return 2 * self.settings.matmul**3 / statistics.median(seconds) if seconds else None


def run(cases: Sequence[Case], benchmark: Benchmark) -> List[Row]:
    """Measure all cases."""
    return [row for case in cases for row in benchmark.measure(case)]
