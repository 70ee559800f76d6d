"""The study of windows and resolutions: trainings and settings compared when these change.

Trainings and sweeps are run by :mod:`.study`.
"""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from .study import SCALES, Sweep, Training, config_named, mean_and_spread, mean_spread_text

DEMO = 'mask-rcnn_swin-pos-nano-p4-w7'
TRAININGS = {
    'window7': Training(config_named(f'{DEMO}_fpn_digits')),
    'elastic': Training(config_named(f'{DEMO}-elastic_fpn_digits')),
    'window7-ms': Training(config_named(f'{DEMO}_fpn_ms_digits')),
    'elastic-ms': Training(config_named(f'{DEMO}-elastic_fpn_ms_digits')),
    'mask': Training(config_named(f'{DEMO}-mask_fpn_digits')),
}
WINDOWS = tuple(range(4, 15))
SOME_WINDOWS = 5, 7, 10, 14

_ONE_RESOLUTION = 'window7', 'elastic'
_MANY_RESOLUTIONS = 'window7-ms', 'elastic-ms'
_SCALE = ('model.backbone.reference_size=256', )
_HIDDEN = 'model.backbone.padding=mask', 'model.data_preprocessor.type=SwinPosDataPreprocessor'
# The mask head takes time and is not part of the question.
_BOXES = 'model.roi_head.mask_head=None', 'model.roi_head.mask_roi_extractor=None', 'test_evaluator.metric=bbox'
SWEEPS = tuple(replace(sweep, options=sweep.options + _BOXES) for sweep in (
    # The same weights in mmdet's own class, at its only window.
    Sweep('mmdet', ('window7', 'window7-ms'), options=('model.backbone.type=SwinTransformer', )),
    Sweep('scale', _ONE_RESOLUTION, windows=WINDOWS, policy='scale', options=_SCALE),
    Sweep('scale', _MANY_RESOLUTIONS + ('mask', ), windows=(7, ), policy='scale', options=_SCALE),
    Sweep('fixed', _ONE_RESOLUTION, windows=WINDOWS),
    Sweep('fixed', ('mask', ), windows=SOME_WINDOWS),
    Sweep('fixed', _MANY_RESOLUTIONS, windows=(7, 14)),
    Sweep('fit', _ONE_RESOLUTION, windows=WINDOWS, policy='fit'),
    Sweep('fit', ('elastic-ms', ), windows=(7, 14), policy='fit'),
    Sweep('hidden', ('window7', ), windows=WINDOWS, options=_HIDDEN),
    # Other ways of resampling; at window 7 nothing is resampled.
    *(Sweep(mode, ('window7', ), windows=tuple(window for window in WINDOWS if window != 7),
            options=(f'model.backbone.resampling={mode}', )) for mode in ('geometric', 'bilinear', 'nearest')),
))


def over_scales(rows: Sequence[Dict[str, Any]], training: str, setting: str, window: str) -> Dict[int, float]:
    """Return the box AP averaged over :data:`SCALES`, for each seed evaluated at all of them."""
    found: Dict[int, Dict[float, float]] = {}
    for row in rows:
        if (row['training'], row['setting'], row['window']) == (training, setting, window):
            found.setdefault(row['seed'], {})[row['scale']] = row['bbox_mAP']
    return {seed: float(np.mean(list(values.values()))) for seed, values in found.items()
            if set(values) == set(SCALES)}


def markdown_over_scales(rows: Sequence[Dict[str, Any]]) -> str:
    """Return the average over scales of every setting that was measured at all of them, against mmdet's own class.

    mmdet's is the same seed's window7, so differences are within a seed: mean ± standard deviation over seeds.
    """
    base = over_scales(rows, 'window7', 'mmdet', 'native')
    lines = ['| trained | evaluated | window | average over scales | against mmdet | seeds |', '|' + '---|' * 6]
    for training, setting, window in dict.fromkeys((row['training'], row['setting'], row['window']) for row in rows):
        found = over_scales(rows, training, setting, window)
        if found:
            paired = [value - base[seed] for seed, value in found.items() if seed in base]
            lines.append(f'| {training} | {setting} | {window} | {mean_spread_text(list(found.values()))} | '
                         f'{mean_spread_text(paired, "+.3f") if paired else ""} | {len(found)} |')
    return '\n'.join(lines)


def markdown_kept(rows: Sequence[Dict[str, Any]], training: str, setting: str,
                  native: Tuple[str, str] = ('fixed', '7')) -> str:
    """Return the share of its box AP at the native window that a training keeps at every other, at scale 1.

    Args:
        rows: of :func:`collect`.
        training: of the weights.
        setting: of the evaluation.
        native: the setting and window to compare with, of the same training and seed.
    """
    at: Dict[Tuple[str, str], Dict[int, float]] = {}
    for row in rows:
        if row['training'] == training and row['scale'] == 1.:
            at.setdefault((row['setting'], row['window']), {})[row['seed']] = row['bbox_mAP']
    own = at.get(native, {})
    windows = sorted((window for found, window in at if found == setting and window.isdigit()), key=int)
    cells = []
    for window in windows:
        shares = [100 * value / own[seed] for seed, value in at[setting, window].items() if own.get(seed)]
        cells.append(mean_spread_text(shares, '.1f') if shares else '')
    return '\n'.join([f'| {training}, {setting} | ' + ' | '.join(windows) + ' |', '|---|' + '---|' * len(windows),
                      '| % of its AP at window 7 | ' + ' | '.join(cells) + ' |'])


def plot_study(rows: Sequence[Dict[str, Any]], path: Path, settings: Sequence[Tuple[str, str]]) -> None:
    """Draw box AP against the window, one panel per scale, one line per (training, setting), bars for the seeds.

    Args:
        rows: of :func:`collect`.
        path: of the PNG.
        settings: the lines to draw.
    """
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    cells = mean_and_spread(rows)
    scales = sorted({cell[3] for cell in cells})
    figure, axes = plt.subplots(1, len(scales), figsize=(4.2 * len(scales), 3.8), squeeze=False, layout='constrained')
    for axis, scale in zip(axes[0], scales):
        for number, (training, setting) in enumerate(settings):
            points = sorted((int(cell[2]), *value) for cell, value in cells.items()
                            if cell[:2] == (training, setting) and cell[3] == scale and cell[2].isdigit())
            if points:
                x, mean, spread, _ = zip(*points)
                beside = np.array(x) + 0.12 * (number - (len(settings) - 1) / 2)  # so that no bar hides another
                axis.errorbar(beside, mean, yerr=np.nan_to_num(spread), marker='o', markersize=4, linewidth=1.4,
                              elinewidth=0.7, label=f'{training}, {setting}')
        native = cells.get(('window7', 'mmdet', 'native', scale))
        if native:
            label = "mmdet's SwinTransformer, window 7"
            axis.axhline(native[0], color='grey', linestyle='--', linewidth=1, label=label)
        axis.set(title=f'images at {scale:g} x the training size', xlabel='nominal window (tokens)')
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel('box AP')
    axes[0, -1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
