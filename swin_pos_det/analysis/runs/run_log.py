"""Reading what MMEngine logged: the runs in a work dir, and the training that a chain of resumed runs makes."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Optional, Union

from ...errors import MissingFileError

_STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ')
_TRAIN_LINE = re.compile(r'(?P<unit>Epoch|Iter)\(train\)\s+(?:\[\d+\])?\[\s*(?P<done>\d+)/\s*(?P<length>\d+)\]'
                         r'.*?\btime: (?P<time>[\d.]+)')
_SAVING = 'Saving checkpoint at'
# From the last of these lines before training iterations, these are timed.
_OTHER_WORK = re.compile(r'Checkpoints will be saved to|(Epoch|Iter)\(val\)')
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')


@dataclass
class Run:
    """One start of a tool, as its folder ``<work dir>/<timestamp>/`` tells.

    Attributes:
        folder: that folder; its name orders runs in time.
        train: one dict per logged training interval, as MMEngine wrote it: ``iter`` (counted from 1), ``lr``, the
            losses (averaged over MMEngine's window), ..., and ``seconds``: how long the iterations since the last
            entry took.
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
        """Return the full config of the run, as MMEngine dumped it."""
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
        """Return the last iteration that is on record."""
        return max(entry['iter'] for entry in self.train + self.val)

    @property
    def train_seconds(self) -> float:
        """Return the time of the training iterations with data loading, without set-up, evaluations and lost work."""
        return sum(entry['seconds'] for entry in self.train)

    @property
    def wall_seconds(self) -> float:
        """Return the time from start to end of all runs' logs, with set-up and evaluations, without gaps between."""
        return sum(run.seconds for run in self.runs)


def read_training(work_dir: Union[str, Path]) -> Training:
    """Return the newest training in a work dir.

    Args:
        work_dir: that of ``tools/train.py``. Runs of ``tools/test.py`` in it are passed over.

    Raises:
        FileNotFoundError: if there is no such folder, or no logged training in it.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise MissingFileError(f'work dir {work_dir} does not exist')
    runs = [run for run in map(read_run, sorted(work_dir.glob('*/'))) if run is not None and run.train]
    if not runs:
        raise MissingFileError(f'{work_dir} holds no logged training: no <timestamp>/vis_data/scalars.json with '
                               'training lines (the first comes after default_hooks.logger.interval iterations)')
    chain = [runs.pop()]
    while chain[0].resumed_from is not None and runs:
        chain.insert(0, runs.pop())
    return _join(chain)


def read_run(folder: Path) -> Optional[Run]:
    """Read one timestamped folder; None if MMEngine did not log there."""
    scalars = folder / 'vis_data' / 'scalars.json'
    if not scalars.is_file():
        return None
    run = Run(folder)
    clock: list[float] = []
    for log in folder.glob('*.log'):
        clock += _read_text_log(run, log)
    last = run.resumed_from or 0
    for entry in _json_lines(scalars):
        if 'loss' in entry and 'iter' in entry:
            # "time" is an average over a window that may be longer than the interval, hence the log's clock.
            index = len(run.train)
            entry['seconds'] = clock[index] if index < len(clock) else entry['time'] * (entry['iter'] - last)
            run.train.append(entry)
            last = entry['iter']
        elif any('/' in key for key in entry):
            # MMEngine writes the epoch, or the iteration, as the step of an evaluation.
            step = entry.get('step', 0)
            run.val.append({**entry, 'iter': step * run.iters_per_epoch if run.iters_per_epoch else step or last})
    return run


def _read_text_log(run: Run, log: Path) -> list[float]:
    """Read the values that only the text log has; return the seconds of training that each training line ends."""
    clock: list[float] = []
    first = now = mark = None
    pending = 0.  # training time after the last training line
    training: Optional[re.Match] = None  # the last training line, if the last work was training
    for line in log.read_text(errors='replace').splitlines():
        stamp = _STAMP.match(line)
        if not stamp:
            continue
        now = datetime.strptime(stamp.group(1), '%Y/%m/%d %H:%M:%S')
        first, mark = first or now, mark or now
        resumed = _RESUMED.search(line)
        if resumed:
            run.resumed_from = int(resumed.group(1))
        found = _TRAIN_LINE.search(line)
        if found:
            clock.append(pending + (now - mark).total_seconds())
            pending, mark, training = 0., now, found
            run.iters_per_epoch = int(found['length']) if found['unit'] == 'Epoch' else None
        elif _SAVING in line and training:
            pending, mark, training = pending + (now - mark).total_seconds(), now, None
        elif _OTHER_WORK.search(line):
            if training and training['unit'] == 'Epoch':  # the unlogged end of an epoch, without a checkpoint after it
                pending += (int(training['length']) - int(training['done'])) * float(training['time'])
            mark, training = now, None
    if first is not None:
        run.seconds = (now - first).total_seconds()
    if clock:
        clock[-1] += pending
    return clock


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one per line; skip a line that a killed run left half-written."""
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
