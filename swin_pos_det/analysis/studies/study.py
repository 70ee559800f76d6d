"""Studies: trainings, and sweeps over their checkpoints, as runs of the tools that are each done once.

A study is a list of trainings (config x seed) and of sweeps over each trained checkpoint. Every one is a run of
``tools/train.py`` or ``tools/analysis_tools/sweep_windows.py`` in a folder of its own, so that finished
parts stay, and a killed study resumes where it stopped.
"""
from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config

from ...checkpoints import write_json
from ...errors import SettingError
from ...progress import ProgressBar

_CHECKOUT = Path(__file__).parents[3]
# The folder of configs/ and tools/, which an installed package contains.
HOME = _CHECKOUT if (_CHECKOUT / 'configs').is_dir() else Path(__file__).parents[2] / '.mim'
SCALES = 0.5, 1., 2.
# A study compares the last epochs.
_LAST_ONLY = 'default_hooks.checkpoint.save_best=None'


def config_named(name: str) -> Path:
    """Return the path of one of this project's configs, named without ``.py``."""
    return HOME / 'configs' / 'swin_pos' / f'{name}.py'


@dataclass(frozen=True)
class Training:
    """A training, run once for each seed.

    Attributes:
        config: its path.
        options: of the config, ``key=value``; they hold in its sweeps too.
    """

    config: Path
    options: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """One call of ``sweep_windows.py`` on a checkpoint.

    Attributes:
        name: of its folder.
        trainings: on whose checkpoints it runs.
        windows: nominal windows; empty: the config's own, without a call to the backbone.
        scales: factors on the image size.
        policy: window policy.
        options: of the config, ``key=value``.
    """

    name: str
    trainings: Tuple[str, ...]
    windows: Tuple[int, ...] = ()
    scales: Tuple[float, ...] = SCALES
    policy: Optional[str] = None
    options: Tuple[str, ...] = ()


def finished_checkpoint(folder: Path, max_epochs: int) -> Optional[Path]:
    """Return the last epoch's checkpoint; None while the training is not finished.

    ``last_checkpoint`` is written after the checkpoint it names, so that one is complete.
    """
    note = folder / 'last_checkpoint'
    last = folder / f'epoch_{max_epochs}.pth'
    return last if note.is_file() and note.read_text().strip().endswith(last.name) and last.is_file() else None


def run_study(folder: Path, seeds: Sequence[int], jobs: int, trainings: Mapping[str, Training],
              sweeps: Sequence[Sweep], options: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """Run the unfinished parts of a study.

    Args:
        folder: where everything goes: ``TRAINING/seedN/`` and below it a folder for each sweep.
        seeds: one training each.
        jobs: runs at once; the cores are shared out among them, unless ``OMP_NUM_THREADS`` is set.
        trainings: by name, in the order of their turn; all of one seed come before the next seed.
        sweeps: what to evaluate.
        options: further options of the config for every run, ``key=value``.

    Returns:
        The rows of :func:`collect`.

    Raises:
        RuntimeError: if a run fails; it names the log. Finished parts stay.
        ValueError: if ``folder`` has trainings with other options.
    """
    runs = [(name, seed) for seed in seeds for name in trainings]
    _note_options({folder / name / f'seed{seed}': [*trainings[name].options, *options] for name, seed in runs})
    epochs = {name: _epochs(training, options) for name, training in trainings.items()}  # not safe in threads
    steps = sum(1 + len(_sweeps_of(name, sweeps)) for name, _ in runs)
    stop = threading.Event()
    with ProgressBar('study', steps) as bar, ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(_run_one, trainings[name], folder / name / f'seed{seed}', seed, epochs[name], jobs,
                               _sweeps_of(name, sweeps), options, bar, stop) for name, seed in runs}
        done, _ = wait(pending, return_when=FIRST_EXCEPTION)
        stop.set()
    for future in done:
        future.result()
    return collect(folder, seeds, trainings, sweeps)


def _sweeps_of(training: str, sweeps: Sequence[Sweep]) -> List[Sweep]:
    return [sweep for sweep in sweeps if training in sweep.trainings]


def _run_one(training: Training, home: Path, seed: int, max_epochs: int, jobs: int, sweeps: Sequence[Sweep],
             options: Sequence[str], bar: ProgressBar, stop: threading.Event) -> None:
    """Train once and sweep the result."""
    options = [*training.options, *options]
    steps: List[Tuple[str, Callable[[], List[str]]]] = []
    if finished_checkpoint(home, max_epochs) is None:
        steps.append(('train', lambda: ['train.py', str(training.config), '--work-dir', str(home), '--resume',
                                        '--cfg-options', f'randomness.seed={seed}', _LAST_ONLY, *options]))
    else:
        bar.advance()
    for sweep in sweeps:
        steps.append((sweep.name, lambda sweep=sweep: _sweep_command(
            sweep, training.config, finished_checkpoint(home, max_epochs), home, options)))
    for name, command in steps:
        if stop.is_set():
            return
        bar.describe(f'study: {home.parent.name}/{home.name}: {name}')
        _call(command(), home / f'{name}.log', jobs)
        bar.advance()


def _note_options(homes: Mapping[Path, List[str]]) -> None:
    """Refuse trainings with different options in one folder: they would be resumed and reported as the same."""
    notes = {home / 'options.json': options for home, options in homes.items()}
    for note, options in notes.items():
        known = json.loads(note.read_text()) if note.is_file() else options
        if _last_words(known) != _last_words(options):
            raise SettingError(f'{note.parent} is of a study with the options {" ".join(known) or "of its config"}, '
                               f'now {" ".join(options) or "there are none"}; choose another --work-dir')
    for note, options in notes.items():
        write_json(options, note)


def _last_words(options: Sequence[str]) -> Dict[str, str]:
    """Map keys to values; the last of a repeated key counts."""
    return {key: value for key, _, value in (option.partition('=') for option in options)}


def _epochs(training: Training, options: Sequence[str]) -> int:
    given = dict(option.split('=', 1) for option in [*training.options, *options] if '=' in option)
    return int(given.get('train_cfg.max_epochs', Config.fromfile(training.config).train_cfg.max_epochs))


def _sweep_command(sweep: Sweep, config: Path, checkpoint: Optional[Path], home: Path,
                   options: Sequence[str]) -> List[str]:
    if checkpoint is None:
        raise RuntimeError(f'the training in {home} ended without its last checkpoint, see {home / "train.log"}')
    command = ['analysis_tools/sweep_windows.py', str(config), str(checkpoint), '--work-dir', str(home / sweep.name)]
    command += ['--scales', *map(str, sweep.scales)]
    command += ['--windows', *map(str, sweep.windows)] if sweep.windows else []
    command += ['--policy', sweep.policy] if sweep.policy else []
    given = [*options, *sweep.options]  # the options of the evaluation come last
    return command + (['--cfg-options', *given] if given else [])


def _call(command: List[str], log: Path, jobs: int) -> None:
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as out:
        done = subprocess.run([sys.executable, str(HOME / 'tools' / command[0]), *command[1:]], stdout=out,
                              stderr=subprocess.STDOUT, env={'OMP_NUM_THREADS': threads, **os.environ})
    if done.returncode != 0:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
        raise RuntimeError(f'{command[0]} failed ({lines[-1].strip() if lines else "no output"}), see {log}')


def collect(folder: Path, seeds: Sequence[int], trainings: Iterable[str],
            sweeps: Sequence[Sweep]) -> List[Dict[str, Any]]:
    """Read the measurements of finished and unfinished studies alike.

    Returns:
        A row for each evaluation: ``training``, ``seed``, ``setting`` (the sweep's name, without ``-between``),
        ``window``, ``scale`` and the metrics.
    """
    rows = []
    for training in trainings:
        for sweep in _sweeps_of(training, sweeps):
            for seed in seeds:
                path = folder / training / f'seed{seed}' / sweep.name / 'sweep.json'
                found = json.loads(path.read_text())['rows'] if path.is_file() else []
                about = dict(training=training, seed=seed, setting=sweep.name.split('-')[0])
                rows += [dict(about, **row) for row in found]
    return rows


def write_csv(rows: Sequence[Dict[str, Any]], path: Path) -> None:
    """Write a line for each evaluation: what it is of, then its metrics, without times (runs share the machine)."""
    columns = dict.fromkeys(key for row in rows for key in row if key != 'ms_per_image')
    with path.open('w', newline='') as out:
        writer = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


Cell = Tuple[str, str, str, float]


def mean_and_spread(rows: Sequence[Dict[str, Any]]) -> Dict[Cell, Tuple[float, float, int]]:
    """Return mean, sample standard deviation and number of seeds of box AP per (training, setting, window, scale)."""
    values: Dict[Cell, List[float]] = {}
    for row in rows:
        values.setdefault((row['training'], row['setting'], row['window'], row['scale']), []).append(row['bbox_mAP'])
    return {cell: (float(np.mean(seeds)), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float('nan'), len(seeds))
            for cell, seeds in values.items()}


def markdown_table(rows: Sequence[Dict[str, Any]], scale: float) -> str:
    """Return box AP at one scale, mean ± standard deviation over seeds; trainings and settings down, windows across."""
    cells = {cell: value for cell, value in mean_and_spread(rows).items() if cell[3] == scale}
    windows = sorted({cell[2] for cell in cells}, key=lambda window: (not window.isdigit(), window.zfill(3)))
    lines = ['| trained | evaluated | ' + ' | '.join(windows) + ' |', '|---|---|' + '---|' * len(windows)]
    for training, setting in dict.fromkeys(cell[:2] for cell in cells):
        shown = [cells.get((training, setting, window, scale)) for window in windows]
        texts = ['' if found is None else f'{found[0]:.3f}' + (f' ± {found[1]:.3f}' if found[2] > 1 else '')
                 for found in shown]
        lines.append(f'| {training} | {setting} | ' + ' | '.join(texts) + ' |')
    return '\n'.join(lines)


def mean_spread_text(values: Sequence[float], form: str = '.3f') -> str:
    """Format at least one value as ``mean ± standard deviation``; one value without deviation."""
    mean = f'{np.mean(values):{form}}'
    return f'{mean} ± {np.std(values, ddof=1):{form.lstrip("+")}}' if len(values) > 1 else mean
