"""The ablation of position schemes: the same training for each, then evaluations at other windows and resolutions.

Trainings and sweeps are run by :mod:`.study`. The comparisons are those of table 4 of Swin (https://arxiv.org/abs/2103.14030)
and table 1 of Swin V2 (https://arxiv.org/abs/2111.09883); the data set and the model are the demo's.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ...choices import ABLATED_SCHEMES
from ...layers import build_position
from ...layers.position import without_weight_decay
from .study import Sweep, Training, config_named, mean_spread_text

DEMO = config_named('mask-rcnn_swin-pos-nano-p4-w7_fpn_digits')
TRAINED_WINDOW = 7
REFERENCE = 'relative'  # the baseline of the comparison
# Entries with more than a scheme: name -> options of the config.
VARIANTS = {'swin_v2': ('model.backbone.type=SwinPosTransformerV2', f'model.backbone.window_size={TRAINED_WINDOW}')}
SCHEMES = tuple(name for name in ABLATED_SCHEMES if name not in VARIANTS)

Setting = Tuple[int, float]  # window (tokens), factor on the image size


@dataclass(frozen=True)
class Recipe:
    """The training of every scheme, and the settings of its evaluations.

    Attributes:
        image: side of the training images in pixels.
        options: of the config, ``key=value``.
        settings: the evaluations; the first is the training's own.
    """

    image: int
    options: Tuple[str, ...]
    settings: Tuple[Setting, ...]


def _resized(side: int) -> Tuple[str, ...]:
    steps = ('train_dataloader.dataset.pipeline.2', 'val_dataloader.dataset.pipeline.1',
             'test_dataloader.dataset.pipeline.1')
    return tuple(f'{step}.scale=({side},{side})' for step in steps)


RECIPES = {
    # That of the demo.
    'demo': Recipe(256, (), ((7, 1.), (5, 1.), (10, 1.), (14, 1.), (7, .5), (4, .5), (7, 2.), (14, 2.))),
    # A quarter of the pixels, a quarter of the iterations, the first half of the validation images.
    'short': Recipe(128, (*_resized(128), 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=2',
                          'train_cfg.val_interval=100', 'param_scheduler.0.end=30', 'param_scheduler.1.T_max=2',
                          'test_dataloader.dataset.num_val=50'),
                    ((7, 1.), (14, 1.), (7, 2.), (14, 2.))),
}


def trainings(schemes: Sequence[str], recipe: Recipe) -> Dict[str, Training]:
    """Return the training of each scheme.

    Args:
        schemes: names of :data:`VARIANTS`, or schemes in the forms of ``position=`` that are text.
        recipe: the same for all.

    Raises:
        ValueError: for a name that is neither.
    """
    # No scheme's parameters have weight decay, as in the authors' trainings.
    keys = (f'optim_wrapper.paramwise_cfg.custom_keys.{name}.decay_mult=0.' for name in without_weight_decay())
    common = (*recipe.options, *keys)
    return {name: Training(DEMO, (*_options(name, recipe), *common)) for name in schemes}


def _options(name: str, recipe: Recipe) -> Tuple[str, ...]:
    if name in VARIANTS:
        return VARIANTS[name]
    absolute = build_position(name).absolute
    size = (f'model.backbone.pretrain_img_size={recipe.image}', ) if absolute else ()  # else it has no effect
    return (f'model.backbone.position={name}', *size)


def sweeps(schemes: Sequence[str], recipe: Recipe) -> List[Sweep]:
    """Return the evaluations of every scheme; image sizes that have the same windows are one sweep."""
    windows: Dict[float, Tuple[int, ...]] = {}
    for window, scale in recipe.settings:
        windows[scale] = (*windows.get(scale, ()), window)
    return [Sweep('windows-' + '-'.join(map(str, sides)), tuple(schemes), windows=sides,
                  scales=tuple(scale for scale, same in windows.items() if same == sides))
            for sides in dict.fromkeys(windows.values())]


def by_setting(rows: Sequence[Dict[str, Any]], metric: str = 'bbox_mAP') -> Dict[str, Dict[Setting, Dict[int, float]]]:
    """Return scheme -> (window, scale) -> seed -> value, of rows of :func:`~.study.collect`."""
    found: Dict[str, Dict[Setting, Dict[int, float]]] = {}
    for row in rows:
        at = found.setdefault(row['training'], {}).setdefault((int(row['window']), row['scale']), {})
        at[row['seed']] = row[metric]
    return found


def markdown_schemes(rows: Sequence[Dict[str, Any]], recipe: Recipe, metric: str = 'bbox_mAP') -> str:
    """Return schemes down, settings across: mean ± standard deviation over seeds, and the number of seeds."""
    found = by_setting(rows, metric)
    return _table(recipe.settings, {
        name: [list(at.get(setting, {}).values()) for setting in recipe.settings] for name, at in found.items()}, '.3f')


def markdown_against(rows: Sequence[Dict[str, Any]], recipe: Recipe, reference: str = REFERENCE,
                     metric: str = 'bbox_mAP') -> str:
    """Return each scheme's gain over the reference in the same setting with the same seed: mean ± spread."""
    found = by_setting(rows, metric)
    base = found.get(reference, {})
    return _table(recipe.settings, {
        name: [[value - base[setting][seed] for seed, value in at.get(setting, {}).items()
                if seed in base.get(setting, {})] for setting in recipe.settings]
        for name, at in found.items() if name != reference}, '+.3f')


def markdown_lost(rows: Sequence[Dict[str, Any]], recipe: Recipe, metric: str = 'bbox_mAP') -> str:
    """Return the change of each scheme's results from the training's setting to others: mean ± spread over seeds."""
    return _table(recipe.settings[1:], {
        name: [list(changes.values()) for changes in _changes(at, recipe)]
        for name, at in by_setting(rows, metric).items()}, '+.3f')


def _changes(at: Dict[Setting, Dict[int, float]], recipe: Recipe) -> List[Dict[int, float]]:
    """Return for each setting after the first: seed -> value less that of the same weights in the first."""
    own = at.get(recipe.settings[0], {})
    return [{seed: value - own[seed] for seed, value in at.get(setting, {}).items() if seed in own}
            for setting in recipe.settings[1:]]


def _table(settings: Sequence[Setting], cells: Dict[str, List[List[float]]], form: str) -> str:
    lines = ['| position | ' + ' | '.join(map(setting_name, settings)) + ' | seeds |',
             '|---|' + '---|' * (len(settings) + 1)]
    for name, values in cells.items():
        counts = sorted({len(seeds) for seeds in values})
        number = ' to '.join(map(str, sorted({counts[0], counts[-1]})))
        texts = [mean_spread_text(seeds, form) if seeds else '' for seeds in values]
        lines.append(f'| {name} | ' + ' | '.join(texts) + f' | {number} |')
    return '\n'.join(lines)


def setting_name(setting: Setting) -> str:
    """Return a text such as ``'window 14, images x 2'``."""
    window, scale = setting
    return f'window {window}' + ('' if scale == 1 else f', images x {scale:g}')


def plot_schemes(rows: Sequence[Dict[str, Any]], recipe: Recipe, path: Path, metric: str = 'bbox_mAP',
                 title: str = '') -> None:
    """Draw a panel for each setting: schemes down, a dot for each seed, a bar at their mean.

    The first panel is AP in the training's own setting, the others the change of the same weights from there.

    Args:
        rows: of :func:`~.study.collect`.
        recipe: with the settings.
        path: of the PNG.
        metric: what to draw.
        title: above the panels.
    """
    from matplotlib.figure import Figure
    found = by_setting(rows, metric)
    names = list(found)
    figure = Figure(figsize=(3.0 * len(recipe.settings) + 1.2, 0.34 * len(names) + 1.7), layout='constrained')
    axes = figure.subplots(1, len(recipe.settings), sharey=True, squeeze=False)[0]
    label = {'bbox_mAP': 'box AP', 'segm_mAP': 'mask AP'}.get(metric, metric)
    for number, (axis, setting) in enumerate(zip(axes, recipe.settings)):
        for place, name in enumerate(names):
            seeds = found[name].get(setting, {}) if number == 0 else _changes(found[name], recipe)[number - 1]
            values = list(seeds.values())
            if values:
                axis.plot(values, [place] * len(values), 'o', markersize=4.5, color='#0072B2', alpha=0.8)
                axis.plot([np.mean(values)] * 2, [place - 0.32, place + 0.32], color='#D55E00', linewidth=2)
        if number:
            axis.axvline(0, color='grey', linewidth=0.8)
        axis.set_title(setting_name(setting) + (' (as trained)' if number == 0 else ''), fontsize=9)
        axis.set_xlabel(label if number == 0 else f'change of {label}', fontsize=9)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis='x', nbins=5)
        axis.grid(axis='x', alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title or 'Position schemes: a dot is a seed, a bar their mean', fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
