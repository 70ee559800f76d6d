"""Flags of a training: viewers of its curves, AP by class, pictures, early stopping, and the best checkpoint."""
from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping

from mmengine.config import Config

from ..engine.visualization_hook import use_own_visualization
from ..errors import MissingPackageError, SettingError
from ..type_names import type_name
from .metric_checks import main_metric
from .runner import add_hook

# COCO metrics have three decimals. With 0, the hook takes an equal value for a better one and never stops on a plateau.
_MIN_GAIN = 0.0005
# flag: backend, and the packages of which it needs one
_VIEWERS = {
    'tensorboard': ('TensorboardVisBackend', ('tensorboard', 'tensorboardX')),
    'wandb': ('WandbVisBackend', ('wandb', )),
}


def follow_training(cfg: Config, args: argparse.Namespace) -> None:
    """Set a config, in place, to what the flags of ``tools/train.py`` ask for.

    Raises:
        MissingPackageError: if the package of a viewer is not installed.
        SettingError: if there is no evaluator that can report AP by class, no hook that draws, or no metric to follow.
    """
    for flag in _VIEWERS:
        if getattr(args, flag):
            add_viewer(cfg, flag)
    if args.classwise:
        report_classes(cfg, 'val')
    if args.val_pictures is not None:
        draw_validation(cfg, args.val_pictures)
    if args.early_stop is not None:
        metric = followed_metric(cfg)
        add_hook(cfg, type='EarlyStoppingHook', monitor=metric, rule='greater', min_delta=_MIN_GAIN,
                 patience=args.early_stop)


def add_viewer(cfg: Config, flag: str) -> None:
    """Add a backend to the visualizer of a config.

    Raises:
        MissingPackageError: if its package is not installed.
    """
    backend, packages = _VIEWERS[flag]
    if not any(importlib.util.find_spec(package) for package in packages):
        raise MissingPackageError(f'--{flag} needs the package {packages[0]}: pip install {packages[0]}')
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type='Visualizer')
    present = list(cfg.visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    if backend not in map(type_name, present):
        cfg.visualizer.vis_backends = [*present, dict(type=backend)]


def report_classes(cfg: Config, part: str) -> None:
    """Turn on AP by class in the COCO metrics of a config, in place.

    Args:
        cfg: changed.
        part: ``'val'`` or ``'test'``.

    Raises:
        SettingError: if the part has none.
    """
    changed = [metric for metric in _evaluators(cfg, part)
               if type_name(metric).endswith(('CocoMetric', 'PhotosMetric'))]
    if not changed:
        raise SettingError(f'--classwise needs a CocoMetric as {part}_evaluator')
    for metric in changed:
        metric['classwise'] = True


def draw_validation(cfg: Config, number: int) -> None:
    """Set a config, in place, to draw the same images at each evaluation, annotations beside predictions.

    Args:
        cfg: changed.
        number: of images.

    Raises:
        SettingError: if the config is not one of a detector, with MMDetection's hook for pictures.
    """
    settings = (cfg.get('default_hooks') or {}).get('visualization') or {}
    if type_name(settings) not in ('DetVisualizationHook', 'SwinPosVisualizationHook'):
        raise SettingError('--val-pictures needs a detector, and default_hooks.visualization = dict(type='
                           '"DetVisualizationHook") in the config')
    settings.update(type='mmdet.SwinPosVisualizationHook', draw=True, val_images=number)
    use_own_visualization(cfg)


def name_best_metric(cfg: Config) -> None:
    """Replace ``save_best='auto'`` by the main metric of the validation, in place, if it is known.

    MMEngine takes the first value of an evaluation. That may be the AP of boxes beside masks, the AP of one class, or
    the pixel accuracy beside the mean IoU.
    """
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best') in ('auto', ['auto']):
        checkpoint['save_best'] = main_metric(_evaluators(cfg)) or 'auto'


def followed_metric(cfg: Config) -> str:
    """Return the metric of ``save_best``, else the main one of the validation, as ``save_best='auto'`` takes it.

    Raises:
        SettingError: if neither names one.
    """
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    best = best[0] if isinstance(best, (list, tuple)) and best else best
    if best and best != 'auto':
        return best
    main = main_metric(_evaluators(cfg))
    if main is None:
        raise SettingError('--early-stop needs a metric to follow: set default_hooks.checkpoint.save_best to one of '
                           "val_evaluator's")
    return main


def _evaluators(cfg: Config, part: str = 'val') -> list[Mapping]:
    found = cfg.get(f'{part}_evaluator') or []
    return [found] if isinstance(found, Mapping) else list(found)
