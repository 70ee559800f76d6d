"""Flags of a training: viewers of its curves, AP by class, and early stopping."""
from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping

from mmengine.config import Config

from ..errors import MissingPackageError, SettingError
from ..type_names import type_name
from .metric_checks import given_metrics
from .runner import add_hook

# COCO metrics have three decimals. With 0, the hook takes an equal value for a better one and never stops on a plateau.
_MIN_GAIN = 0.0005
# flag: backend, and the packages of which it needs one
_VIEWERS = {
    'tensorboard': ('TensorboardVisBackend', ('tensorboard', 'tensorboardX')),
    'wandb': ('WandbVisBackend', ('wandb', )),
}


def follow_training(cfg: Config, args: argparse.Namespace) -> None:
    """Set a config, in place, to what ``--tensorboard``, ``--wandb``, ``--classwise`` and ``--early-stop`` ask for.

    Raises:
        MissingPackageError: if the package of a viewer is not installed.
        SettingError: if there is no evaluator that can report AP by class or a metric to follow.
    """
    for flag in _VIEWERS:
        if getattr(args, flag):
            add_viewer(cfg, flag)
    if args.classwise:
        report_classes(cfg)
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


def report_classes(cfg: Config) -> None:
    """Turn on AP by class in the COCO metrics of the validation.

    Raises:
        SettingError: if the validation has none.
    """
    changed = [metric for metric in _evaluators(cfg) if type_name(metric).endswith(('CocoMetric', 'PhotosMetric'))]
    if not changed:
        raise SettingError('--classwise needs a CocoMetric as val_evaluator')
    for metric in changed:
        metric['classwise'] = True
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('save_best') == 'auto':
        # MMEngine takes the first value of an evaluation, which now is the AP of the first class.
        checkpoint['save_best'] = (given_metrics(_evaluators(cfg)) or ['auto'])[0]


def followed_metric(cfg: Config) -> str:
    """Return the metric of ``save_best``, else the first of the validation, as ``save_best='auto'`` takes it.

    Raises:
        SettingError: if neither names one.
    """
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    best = best[0] if isinstance(best, (list, tuple)) and best else best
    if best and best != 'auto':
        return best
    given = given_metrics(_evaluators(cfg))
    if not given:
        raise SettingError('--early-stop needs a metric to follow: set default_hooks.checkpoint.save_best to one of '
                           "val_evaluator's")
    return given[0]


def _evaluators(cfg: Config) -> list[Mapping]:
    found = cfg.get('val_evaluator') or []
    return [found] if isinstance(found, Mapping) else list(found)
