"""Reading what MMEngine logged: the runs in a work dir, and the training that a chain of resumed runs makes."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Optional, Union

_STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ')
_TRAIN_LINE = re.compile(r'Epoch\(train\)\s+\[\d+\]\[\s*\d+/(\d+)\]')
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')


@dataclass
class Run:
    """One start of a tool, as its folder ``<work dir>/<timestamp>/`` tells.

    Attributes:
        folder: that folder; its name orders runs in time.
        train: one dict per logged training interval, with ``iter`` (counted from 1), ``time`` and ``data_time``
            (seconds per iteration, averaged over the interval), ``lr``, and the losses.
        val: one dict per evaluation: its metrics, and ``iter``, the iterations done before it.
        resumed_from: iterations that an earlier run had done, or None for a fresh run.
        iters_per_epoch: None for runs that count iterations, not epochs.
        seconds: from the first to the last line of the log, set-up and evaluations included.
    """
    folder: Path
    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: Optional[int] = None
    iters_per_epoch: Optional[int] = None
    seconds: float = 0.

    @property
    def config(self) -> Path:
        """The full config of the run, as MMEngine dumped it."""
        return self.folder / 'vis_data' / 'config.py'


@dataclass
class Training:
    """A training, possibly in several runs, each resumed from the one before.

    Attributes:
        runs: oldest first.
        train, val: as in :class:`Run`, without what a run did after the checkpoint that the next one resumed from.
    """
    runs: list[Run]
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]

    @property
    def iterations(self) -> int:
        """The last iteration that is on record."""
        return max(entry['iter'] for entry in self.train + self.val)

    @property
    def train_seconds(self) -> float:
        """Time of the training iterations, data loading included; set-up, evaluations and lost work are not."""
        total, done = 0., 0
        for entry in self.train:
            total += entry['time'] * (entry['iter'] - done)
            done = entry['iter']
        return total

    @property
    def wall_seconds(self) -> float:
        """Time from the start to the end of all runs' logs: set-up and evaluations included, gaps between runs not."""
        return sum(run.seconds for run in self.runs)


def read_training(work_dir: Union[str, Path]) -> Training:
    """The newest training in a work dir.

    Args:
        work_dir: that of ``tools/train.py``. Runs of ``tools/test.py`` in it are passed over.

    Raises:
        FileNotFoundError: if there is no such folder, or no logged training in it.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'work dir {work_dir} does not exist')
    runs = [run for run in map(read_run, sorted(work_dir.glob('*/'))) if run is not None and run.train]
    if not runs:
        raise FileNotFoundError(f'{work_dir} holds no logged training: no <timestamp>/vis_data/scalars.json with '
                                'training lines (the first comes after default_hooks.logger.interval iterations)')
    chain = [runs.pop()]
    while chain[0].resumed_from is not None and runs:
        chain.insert(0, runs.pop())
    return _join(chain)


def read_run(folder: Path) -> Optional[Run]:
    """Reads one timestamped folder; None if MMEngine did not log there."""
    scalars = folder / 'vis_data' / 'scalars.json'
    if not scalars.is_file():
        return None
    run = Run(folder)
    for log in folder.glob('*.log'):
        _read_text_log(run, log)
    last = run.resumed_from or 0
    for entry in _json_lines(scalars):
        if 'loss' in entry and 'iter' in entry:
            run.train.append(entry)
            last = entry['iter']
        elif any('/' in key for key in entry):
            # MMEngine writes the epoch, or the iteration, as the step of an evaluation.
            step = entry.get('step', 0)
            run.val.append({**entry, 'iter': step * run.iters_per_epoch if run.iters_per_epoch else step or last})
    return run


def _read_text_log(run: Run, log: Path) -> None:
    stamps = []
    for line in log.read_text(errors='replace').splitlines():
        stamp = _STAMP.match(line)
        if stamp:
            stamps.append(stamp.group(1))
        length = _TRAIN_LINE.search(line)
        if length:
            run.iters_per_epoch = int(length.group(1))
        resumed = _RESUMED.search(line)
        if resumed:
            run.resumed_from = int(resumed.group(1))
    if stamps:
        first, last = (datetime.strptime(stamp, '%Y/%m/%d %H:%M:%S') for stamp in (stamps[0], stamps[-1]))
        run.seconds = (last - first).total_seconds()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line; a last line that a killed run left half-written is skipped."""
    for line in path.read_text(errors='replace').splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry


def _join(runs: list[Run]) -> Training:
    train: list[dict[str, Any]] = []
    val: list[dict[str, Any]] = []
    for run in runs:
        if run.resumed_from is not None:
            train = [entry for entry in train if entry['iter'] <= run.resumed_from]
            val = [entry for entry in val if entry['iter'] <= run.resumed_from]
        train += run.train
        val += run.val
    return Training(runs, train, val)
