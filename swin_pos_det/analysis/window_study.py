"""The study of windows and resolutions: which training and which setting keep the accuracy when they change.

A study is a list of trainings (config x seed) and of sweeps over each trained checkpoint. Every one is a run of
``tools/train.py`` or ``tools/analysis_tools/sweep_windows.py`` in a folder of its own, so that whatever was finished
stays finished, and a killed study goes on where it stopped.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from tqdm import tqdm

REPO = Path(__file__).parents[2]
DEMO = 'mask-rcnn_swin-pos-nano-p4-w7'
TRAININGS = {
    'window7': f'{DEMO}_fpn_digits',
    'elastic': f'{DEMO}-elastic_fpn_digits',
    'window7-ms': f'{DEMO}_fpn_ms_digits',
    'elastic-ms': f'{DEMO}-elastic_fpn_ms_digits',
    'mask': f'{DEMO}-mask_fpn_digits',
}
SCALES = 0.5, 1., 2.
WINDOWS = 5, 7, 10, 14  # at every scale
BETWEEN = 4, 5, 6, 8, 9, 10, 11, 12, 13  # at scale 1 only, with the windows that fit best


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
    windows: Tuple[int, ...] = WINDOWS
    scales: Tuple[float, ...] = SCALES
    policy: Optional[str] = None
    options: Tuple[str, ...] = ()


_ONE_RESOLUTION = 'window7', 'elastic'
_MANY_RESOLUTIONS = 'window7-ms', 'elastic-ms'
_ALL = _ONE_RESOLUTION + _MANY_RESOLUTIONS
_HIDDEN = 'model.backbone.padding=mask', 'model.data_preprocessor.type=SwinPosDataPreprocessor'
SWEEPS = (
    # The same weights in mmdet's own class, at the only window it can have.
    Sweep('mmdet', ('window7', 'window7-ms'), windows=(), options=('model.backbone.type=SwinTransformer', )),
    Sweep('scale', _ALL, windows=(7, ), policy='scale', options=('model.backbone.reference_size=256', )),
    Sweep('fixed', _ONE_RESOLUTION),
    Sweep('fixed', _MANY_RESOLUTIONS, windows=(7, 14)),
    Sweep('fit', ('window7', 'elastic', 'elastic-ms'), windows=(7, 14), policy='fit'),
    Sweep('native', ('mask', ), windows=(7, )),
    Sweep('hidden', ('window7', ), windows=(7, ), options=_HIDDEN),
    Sweep('fixed-between', ('elastic', ), windows=(6, 8, 9, 11, 12, 13), scales=(1., )),
    Sweep('fit-between', ('elastic', ), windows=BETWEEN, scales=(1., ), policy='fit'),
    # Against bicubic resampling, at the window farthest from the learned one.
    *(Sweep(mode, ('window7', ), windows=(14, ), scales=(1., 2.), options=(f'model.backbone.resampling={mode}', ))
      for mode in ('geometric', 'bilinear', 'nearest')),
)


def config_of(training: str) -> Path:
    """The path of a training's config."""
    return REPO / 'configs' / 'swin_pos' / f'{TRAININGS[training]}.py'


def finished_checkpoint(folder: Path, max_epochs: int) -> Optional[Path]:
    """The last epoch's checkpoint, None while the training is not finished.

    ``last_checkpoint`` is written after the file it names, so a file that it names is whole.
    """
    note = folder / 'last_checkpoint'
    last = folder / f'epoch_{max_epochs}.pth'
    return last if note.is_file() and note.read_text().strip().endswith(last.name) and last.is_file() else None


def run_study(folder: Path, seeds: Sequence[int], jobs: int, trainings: Sequence[str] = tuple(TRAININGS),
              sweeps: Sequence[Sweep] = SWEEPS, options: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """Do what is not done yet of a study.

    Args:
        folder: where everything goes: ``TRAINING/seedN/`` and below it a folder for each sweep.
        seeds: one training each.
        jobs: runs at once; the cores are shared out among them.
        trainings: names from :data:`TRAININGS`, in the order of their turn.
        sweeps: what to evaluate.
        options: further options of the config for every run, ``key=value``.

    Returns:
        The rows of :func:`collect`.

    Raises:
        RuntimeError: if a run fails; it names the log. What was finished stays.
    """
    runs = [(training, seed) for seed in seeds for training in trainings]
    epochs = {training: _epochs(config_of(training), options) for training in trainings}  # not safe in threads
    steps = sum(1 + len(_sweeps_of(training, sweeps)) for training, _ in runs)
    stop = threading.Event()
    with tqdm(total=steps, desc='study', unit='run') as bar, ThreadPoolExecutor(jobs) as pool:
        pending = {pool.submit(_run_one, folder, *run, epochs[run[0]], jobs, sweeps, options, bar, stop)
                   for run in runs}
        done, _ = wait(pending, return_when=FIRST_EXCEPTION)
        stop.set()
    for future in done:
        future.result()
    return collect(folder, seeds, trainings, sweeps)


def _sweeps_of(training: str, sweeps: Sequence[Sweep]) -> List[Sweep]:
    return [sweep for sweep in sweeps if training in sweep.trainings]


def _run_one(folder: Path, training: str, seed: int, max_epochs: int, jobs: int, sweeps: Sequence[Sweep],
             options: Sequence[str], bar: tqdm, stop: threading.Event) -> None:
    """Train once and sweep the result."""
    config, home = config_of(training), folder / training / f'seed{seed}'
    steps: List[Tuple[str, Callable[[], List[str]]]] = []
    if finished_checkpoint(home, max_epochs) is None:
        steps.append(('train', lambda: ['train.py', str(config), '--work-dir', str(home), '--resume', '--cfg-options',
                                        f'randomness.seed={seed}', *options]))
    else:
        bar.update()
    for sweep in _sweeps_of(training, sweeps):
        steps.append((sweep.name, lambda sweep=sweep: _sweep_command(
            sweep, config, finished_checkpoint(home, max_epochs), home, options)))
    for name, command in steps:
        if stop.is_set():
            return
        bar.set_postfix_str(f'{training}/seed{seed}: {name}')
        _call(command(), home / f'{name}.log', jobs)
        bar.update()


def _epochs(config: Path, options: Sequence[str]) -> int:
    given = dict(option.split('=', 1) for option in options if '=' in option)
    return int(given.get('train_cfg.max_epochs', Config.fromfile(config).train_cfg.max_epochs))


def _sweep_command(sweep: Sweep, config: Path, checkpoint: Optional[Path], home: Path,
                   options: Sequence[str]) -> List[str]:
    if checkpoint is None:
        raise RuntimeError(f'the training in {home} ended without its last checkpoint, see {home / "train.log"}')
    command = ['analysis_tools/sweep_windows.py', str(config), str(checkpoint), '--work-dir', str(home / sweep.name)]
    command += ['--scales', *map(str, sweep.scales)]
    command += ['--windows', *map(str, sweep.windows)] if sweep.windows else []
    command += ['--policy', sweep.policy] if sweep.policy else []
    given = [*sweep.options, *options]
    return command + (['--cfg-options', *given] if given else [])


def _call(command: List[str], log: Path, jobs: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as out:
        done = subprocess.run([sys.executable, str(REPO / 'tools' / command[0]), *command[1:]], stdout=out,
                              stderr=subprocess.STDOUT, env={**os.environ, 'OMP_NUM_THREADS': str(threads)})
    if done.returncode != 0:
        lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
        raise RuntimeError(f'{command[0]} failed ({lines[-1].strip() if lines else "no output"}), see {log}')


def collect(folder: Path, seeds: Sequence[int], trainings: Sequence[str] = tuple(TRAININGS),
            sweeps: Sequence[Sweep] = SWEEPS) -> List[Dict[str, Any]]:
    """Read what was measured, of finished and unfinished studies alike.

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


Cell = Tuple[str, str, str, float]


def mean_and_spread(rows: Sequence[Dict[str, Any]], metric: str = 'bbox_mAP') -> Dict[Cell, Tuple[float, float, int]]:
    """Mean, sample standard deviation and number of seeds of each (training, setting, window, scale)."""
    values: Dict[Cell, List[float]] = {}
    for row in rows:
        values.setdefault((row['training'], row['setting'], row['window'], row['scale']), []).append(row[metric])
    return {cell: (float(np.mean(seeds)), float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float('nan'), len(seeds))
            for cell, seeds in values.items()}


def markdown_table(rows: Sequence[Dict[str, Any]], scale: float, metric: str = 'bbox_mAP') -> str:
    """Training and setting down, windows across: mean ± standard deviation over seeds, at one scale."""
    cells = {cell: value for cell, value in mean_and_spread(rows, metric).items() if cell[3] == scale}
    windows = sorted({cell[2] for cell in cells}, key=lambda window: (not window.isdigit(), window.zfill(3)))
    lines = ['| trained | evaluated | ' + ' | '.join(windows) + ' |', '|---|---|' + '---|' * len(windows)]
    for training, setting in dict.fromkeys(cell[:2] for cell in cells):
        shown = [cells.get((training, setting, window, scale)) for window in windows]
        texts = ['' if found is None else f'{found[0]:.3f}' + (f' ± {found[1]:.3f}' if found[2] > 1 else '')
                 for found in shown]
        lines.append(f'| {training} | {setting} | ' + ' | '.join(texts) + ' |')
    return '\n'.join(lines)


def over_scales(rows: Sequence[Dict[str, Any]], training: str, setting: str, window: str,
                metric: str = 'bbox_mAP') -> Dict[int, float]:
    """The average over all of :data:`SCALES` for each seed that has been evaluated at every one of them."""
    found: Dict[int, Dict[float, float]] = {}
    for row in rows:
        if (row['training'], row['setting'], row['window']) == (training, setting, window):
            found.setdefault(row['seed'], {})[row['scale']] = row[metric]
    return {seed: float(np.mean(list(values.values()))) for seed, values in found.items()
            if set(values) == set(SCALES)}


def markdown_over_scales(rows: Sequence[Dict[str, Any]], metric: str = 'bbox_mAP') -> str:
    """The average over scales of every setting that was measured at all of them, against mmdet's own class.

    mmdet's is the same seed's window7, so differences are within a seed: mean ± standard deviation over seeds.
    """
    base = over_scales(rows, 'window7', 'mmdet', 'native', metric)
    lines = ['| trained | evaluated | window | average over scales | against mmdet | seeds |', '|' + '---|' * 6]
    for training, setting, window in dict.fromkeys((row['training'], row['setting'], row['window']) for row in rows):
        found = over_scales(rows, training, setting, window, metric)
        if found:
            paired = [value - base[seed] for seed, value in found.items() if seed in base]
            lines.append(f'| {training} | {setting} | {window} | {_mean_spread(list(found.values()))} | '
                         f'{_mean_spread(paired, "+.3f") if paired else ""} | {len(found)} |')
    return '\n'.join(lines)


def markdown_kept(rows: Sequence[Dict[str, Any]], training: str, setting: str, native: Tuple[str, str] = ('fixed', '7'),
                  metric: str = 'bbox_mAP') -> str:
    """What share of its own AP at the native window a training keeps at every other, at scale 1.

    Args:
        rows: of :func:`collect`.
        training: whose weights.
        setting: how they are evaluated.
        native: the setting and window to compare with, of the same training and seed.
        metric: whose share.
    """
    at: Dict[Tuple[str, str], Dict[int, float]] = {}
    for row in rows:
        if row['training'] == training and row['scale'] == 1.:
            at.setdefault((row['setting'], row['window']), {})[row['seed']] = row[metric]
    own = at.get(native, {})
    windows = sorted((window for found, window in at if found == setting and window.isdigit()), key=int)
    cells = []
    for window in windows:
        shares = [100 * value / own[seed] for seed, value in at[setting, window].items() if own.get(seed)]
        cells.append(_mean_spread(shares, '.1f') if shares else '')
    return '\n'.join([f'| {training}, {setting} | ' + ' | '.join(windows) + ' |', '|---|' + '---|' * len(windows),
                      '| % of its AP at window 7 | ' + ' | '.join(cells) + ' |'])


def _mean_spread(values: Sequence[float], form: str = '.3f') -> str:
    mean = f'{np.mean(values):{form}}'
    return f'{mean} ± {np.std(values, ddof=1):{form.lstrip("+")}}' if len(values) > 1 else mean


def plot_study(rows: Sequence[Dict[str, Any]], path: Path, settings: Sequence[Tuple[str, str]],
               metric: str = 'bbox_mAP') -> None:
    """Draw AP against the window, one panel per scale, one line per (training, setting); bars are the seeds' spread.

    Args:
        rows: of :func:`collect`.
        path: of the PNG.
        settings: the lines to draw.
        metric: what to draw.
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    cells = mean_and_spread(rows, metric)
    scales = sorted({cell[3] for cell in cells})
    figure, axes = plt.subplots(1, len(scales), figsize=(4.2 * len(scales), 3.8), squeeze=False, layout='constrained')
    for axis, scale in zip(axes[0], scales):
        for training, setting in settings:
            points = sorted((int(cell[2]), *value) for cell, value in cells.items()
                            if cell[:2] == (training, setting) and cell[3] == scale and cell[2].isdigit())
            if points:
                x, mean, spread, _ = zip(*points)
                axis.errorbar(x, mean, yerr=np.nan_to_num(spread), marker='o', markersize=4, capsize=3, linewidth=1.2,
                              label=f'{training}, {setting}')
        native = cells.get(('window7', 'mmdet', 'native', scale))
        if native:
            label = "mmdet's SwinTransformer, window 7"
            axis.axhline(native[0], color='grey', linestyle='--', linewidth=1, label=label)
        axis.set(title=f'images at {scale:g} x the training size', xlabel='nominal window (tokens)')
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel({'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP'}.get(metric, metric))
    axes[0, -1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
