"""The result of a training: its metrics, and the curves of its losses and APs."""
from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Union

from ...checkpoints import write_json
from ...errors import MissingFileError
from .run_log import Training, read_training

# COCO's metrics, and those of mmdet's VOCMetric.
_AP = re.compile(r'(?:.*/)?((?:bbox|segm)_mAP(?:_\w+)?|mAP|AP\d\d)')
# The metrics in tables and curves, with their titles.
AP_TITLES = {'bbox_mAP': 'box AP', 'bbox_mAP_50': 'box AP50', 'segm_mAP': 'mask AP', 'segm_mAP_50': 'mask AP50',
             'mAP': 'VOC mAP', 'AP50': 'VOC AP50'}


def summarize(work_dir: Union[str, Path], checkpoint: Union[str, Path, None] = None) -> dict[str, Any]:
    """Return the metrics of the newest training in ``work_dir``, as they go into ``metrics.json``.

    Args:
        work_dir: that of ``tools/train.py``.
        checkpoint: the file that the report is about. Default: see :func:`find_checkpoint`.

    Returns:
        ``config`` (its name), ``work_dir``, ``runs`` (their timestamps), ``checkpoint`` (a path, or None),
        ``iterations``, ``train_time_s`` (iterations only), ``wall_time_s`` (set-up and evaluations too),
        ``seconds_per_iteration``, ``final`` (metric -> value of the last evaluation, in [0, 1]; empty without one),
        ``final_iteration``, ``best``
        (metric -> ``value`` and ``iteration``), ``versions``. Sizes without objects (-1 in COCO's tables) are left out.

    Raises:
        FileNotFoundError: without a training in ``work_dir``, or without ``checkpoint``.
    """
    training = read_training(work_dir)
    found = find_checkpoint(work_dir, checkpoint)
    history = ap_history(training)
    return {
        'config': config_name(work_dir),
        'work_dir': str(work_dir),
        'runs': [run.folder.name for run in training.runs],
        'checkpoint': str(found) if found else None,
        'iterations': training.iterations,
        'train_time_s': round(training.train_seconds, 2),
        'wall_time_s': round(training.wall_seconds, 2),
        'seconds_per_iteration': round(training.train_seconds / max(entry['iter'] for entry in training.train), 4),
        'final': {name: points[-1][1] for name, points in history.items()},
        'final_iteration': training.val[-1]['iter'] if training.val else None,
        'best': {name: dict(zip(('value', 'iteration'), _best(points))) for name, points in history.items()},
        'versions': versions(),
    }


def write_metrics(metrics: dict[str, Any], path: Union[str, Path]) -> None:
    """Write what :func:`summarize` returns, as indented JSON."""
    write_json(metrics, path, indent=2)


def ap_history(training: Training) -> dict[str, list[tuple[int, float]]]:
    """Return metric -> [(iteration, value)], in the log's order: ``bbox_mAP``, ``segm_mAP``, ... or VOC's ``mAP``."""
    history: dict[str, list[tuple[int, float]]] = {}
    for entry in training.val:
        for key, value in entry.items():
            name = _AP.fullmatch(key)
            if name and value >= 0:
                history.setdefault(name.group(1), []).append((entry['iter'], value))
    return history


def find_checkpoint(work_dir: Union[str, Path], checkpoint: Union[str, Path, None] = None) -> Optional[Path]:
    """Return the checkpoint to report: ``checkpoint``, or the last one noted in the work dir, or its newest ``.pth``.

    Returns:
        The file, or None if ``work_dir`` has none.

    Raises:
        FileNotFoundError: if ``checkpoint`` does not exist.
    """
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise MissingFileError(f'checkpoint {checkpoint} does not exist')
        return Path(checkpoint)
    work_dir = Path(work_dir)
    pointer = work_dir / 'last_checkpoint'
    if pointer.is_file():
        # By its name alone: a work dir may have been moved.
        last = work_dir / Path(pointer.read_text().strip()).name
        if last.is_file():
            return last
    files = sorted(work_dir.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    return files[-1] if files else None


def config_name(work_dir: Union[str, Path]) -> Optional[str]:
    """Return the name of the config that the newest run dumped into the work dir, without ``.py``."""
    files = sorted(Path(work_dir).glob('*.py'), key=lambda path: path.stat().st_mtime)
    return files[-1].stem if files else None


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    names = ('torch', 'mmcv', 'mmengine', 'mmdet', 'numpy', 'swin_pos_det')
    return {name: import_module(name).__version__ for name in names}


def plot_curves(training: Training, path: Union[str, Path], title: str = '') -> None:
    """Write a PNG with two panels over the iterations: total loss and its parts; box and mask AP.

    Args:
        training: to plot.
        path: of the PNG; overwritten.
        title: above both panels.
    """
    # Figure without pyplot: no display is needed, and the caller's backend and open figures stay as they are.
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 4.8), layout='constrained')
    losses, aps = figure.subplots(1, 2)
    _plot_losses(losses, training)
    _plot_aps(aps, training)
    for axes in (losses, aps):
        axes.set_xlabel('iteration')
        axes.grid(alpha=0.3)
        for run in training.runs[1:]:
            axes.axvline(run.resumed_from, color='gray', linestyle=':', linewidth=1)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _plot_losses(axes: Any, training: Training) -> None:
    names = sorted({key for entry in training.train for key in entry if re.match(r'(.*\.)?loss', key)}, key=len)
    marker = 'o' if len(training.train) < 3 else None
    for name in names:
        points = [(entry['iter'], entry[name]) for entry in training.train if name in entry]
        total = name == 'loss'
        axes.plot(*zip(*points), marker=marker, color='black' if total else None, linewidth=2 if total else 1.2,
                  label='total' if total else name.replace('loss_', '').replace('_', ' '))
    axes.set_title('Training loss')
    axes.set_ylabel('loss')
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)


def _plot_aps(axes: Any, training: Training) -> None:
    axes.set_title('Evaluation on the validation set')
    axes.set_ylabel('average precision (0 to 1)')
    axes.set_ylim(0, 1)
    axes.set_xlim(0, training.iterations * 1.03)
    history = ap_history(training)
    if not history:
        axes.text(0.5, 0.5, 'no evaluation was logged', transform=axes.transAxes, ha='center')
        return
    for name, title in AP_TITLES.items():
        points = history.get(name)
        if points:
            axes.plot(*zip(*points), '--' if name.endswith('50') else '-', marker='o', markersize=4,
                      color='tab:orange' if name.startswith('segm') else 'tab:blue',
                      label=f'{title} (last {points[-1][1]:.3f})')
    axes.legend(frameon=False, loc='best')


def _best(points: list[tuple[int, float]]) -> tuple[float, int]:
    iteration, value = max(points, key=lambda point: point[1])
    return value, iteration
