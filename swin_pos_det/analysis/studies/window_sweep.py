"""AP and latency of one checkpoint over windows and image scales."""
from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...checkpoints import unwrapped, write_json
from ...cli.runner import build_runner, prepare_testing
from ...errors import SettingError
from ...evaluation.evaluator_checks import use_own_metric
from ...progress import track
from ...type_names import type_name

Window = Union[int, str, Tuple[int, int], None]
METRICS = {'box AP': 'bbox_mAP', 'mask AP': 'segm_mAP', 'ms per image': 'ms_per_image'}


class _Stopwatch(Hook):
    """A timer of each image's forward and post-processing, without data loading."""

    def __init__(self) -> None:
        self.seconds: List[float] = []

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def before_test_iter(self, *args: Any, **kwargs: Any) -> None:
        self._start = self._now()

    def after_test_iter(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(self._now() - self._start)


def scale_resize(pipeline: Any, factor: float) -> int:
    """Multiply the ``scale`` of every ``Resize`` in a pipeline, in place.

    Args:
        pipeline: a list of transforms' configs.
        factor: above 0.

    Returns:
        The number of resized transforms.
    """
    found = 0
    for transform in pipeline:
        if type_name(transform) == 'Resize' and transform.get('scale') is not None:
            transform['scale'] = tuple(max(1, round(side * factor)) for side in transform['scale'])
            found += 1
    return found


def sweep(cfg: Config, checkpoint: str, windows: Sequence[Window], scales: Sequence[float], out: Path,
          policy: Optional[str] = None, options: Optional[Dict[str, Any]] = None) -> List[Dict[str, Any]]:
    """Evaluate a checkpoint at each window and scale; an interrupted sweep resumes where it stopped.

    Args:
        cfg: with a test set; its ``Resize`` is scaled.
        checkpoint: path of the weights.
        windows: each in the forms of ``SwinPosTransformer.set_window_size``; None: as the config has it.
        scales: factors on the size of the images.
        out: the JSON file to write, a row after each evaluation. Rows of an earlier call with the same config,
            checkpoint, policy and options are kept.
        policy: window policy. Default: the config's.
        options: changes of ``cfg`` since it was read, to distinguish its sweeps.

    Returns:
        The rows: ``window``, ``scale``, the metrics by their names without ``coco/``, ``ms_per_image`` (median).

    Raises:
        ValueError: if ``out`` is of another sweep, the pipeline has no ``Resize``, or a window is invalid.
    """
    about = dict(config=str(cfg.filename), checkpoint=os.path.abspath(checkpoint), policy=policy,
                 options=json.loads(json.dumps(options or {}, default=str)))
    rows = _read(out, about)
    done = {(str(row['window']), row['scale']) for row in rows}
    cells = [(window, scale) for scale in scales for window in windows if (_name(window), scale) not in done]
    if not cells:
        return rows
    cfg = copy.deepcopy(cfg)
    prepare_testing(cfg, checkpoint)
    runner = build_runner(cfg, evaluated='test')
    runner.call_hook('before_run')
    runner.load_or_resume()
    native = getattr(_backbone(runner), 'window_size', None)  # before a cell sets another
    for window, scale in track(cells, 'sweep'):
        if native is not None or window is not None or policy is not None:  # mmdet's backbone has the config's alone
            _backbone(runner).set_window_size(native if window is None else window, policy)
        rows.append(dict(window=_name(window), scale=scale, **_evaluate(runner, cfg, scale)))
        write_json(dict(about, rows=rows), out, indent=2)
    runner.call_hook('after_run')
    return rows


def _backbone(runner: Runner) -> Any:
    return unwrapped(runner.model).backbone


def _evaluate(runner: Runner, cfg: Config, scale: float) -> Dict[str, float]:
    dataloader = copy.deepcopy(cfg.test_dataloader)  # a Config's copy() would share the pipeline
    if not scale_resize(dataloader.dataset.pipeline, scale):
        raise SettingError('the test pipeline has no Resize with a scale: there is nothing to sweep')
    stopwatch = _Stopwatch()
    runner._hooks = [hook for hook in runner._hooks if not isinstance(hook, _Stopwatch)]
    runner.register_hook(stopwatch, priority='VERY_LOW')
    runner._test_dataloader, runner._test_evaluator = dataloader, copy.deepcopy(cfg.test_evaluator)
    use_own_metric(runner)
    runner._test_loop = dict(cfg.test_cfg)
    metrics = runner.test_loop.run()
    named = {name.rpartition('/')[2]: float(value) for name, value in metrics.items()}
    return dict(named, ms_per_image=float(np.median(stopwatch.seconds)) * 1000)


def _name(window: Window) -> str:
    return 'native' if window is None else str(window)


def _read(out: Path, about: Dict[str, Any]) -> List[Dict[str, Any]]:
    if not out.is_file():
        return []
    try:
        found = json.loads(out.read_text())
        rows = [dict(row, window=row['window'], scale=row['scale']) for row in found['rows']]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f'{out} is damaged, or not of a sweep; delete it, or choose another folder') from error
    different = [key for key, value in about.items() if found.get(key) != value]
    if different:
        raise SettingError(f'{out} is of another sweep: its {different[0]} is {found.get(different[0])!r}, '
                           f'now {about[different[0]]!r}; choose another folder')
    return rows


def plot_sweep(rows: Sequence[Dict[str, Any]], path: Path, title: str = '') -> None:
    """Draw heat maps, one for each of box AP, mask AP and latency: windows across, scales down.

    Args:
        rows: of :func:`sweep`.
        path: of the PNG.
        title: above the maps.
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    windows = list(dict.fromkeys(row['window'] for row in rows))
    scales = sorted({row['scale'] for row in rows})
    shown = {name: key for name, key in METRICS.items() if all(key in row for row in rows)}
    size = (1.2 + (1.2 + 0.75 * len(windows)) * len(shown), 1.8 + 0.6 * len(scales))
    figure, axes = plt.subplots(1, len(shown), figsize=size, squeeze=False, layout='constrained')
    for axis, (name, key) in zip(axes[0], shown.items()):
        grid = np.full((len(scales), len(windows)), np.nan)
        for row in rows:
            grid[scales.index(row['scale']), windows.index(row['window'])] = row[key]
        image = axis.imshow(grid, aspect='auto', cmap='viridis' if 'AP' in name else 'viridis_r')
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (y, x), value in np.ndenumerate(grid):
            dark = (value < middle) == ('AP' in name)
            axis.text(x, y, f'{value:.3f}' if 'AP' in name else f'{value:.0f}', ha='center', va='center',
                      color='white' if dark else 'black')
        axis.set(title=name, xlabel='window (tokens)', xticks=range(len(windows)), xticklabels=windows,
                 yticks=range(len(scales)), yticklabels=[f'{scale:g}' for scale in scales])
        figure.colorbar(image, ax=axis, fraction=0.05)
    axes[0, 0].set_ylabel('image scale')
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
