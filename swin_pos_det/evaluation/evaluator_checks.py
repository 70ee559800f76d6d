"""Checks of a config's evaluators before anything is built."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn

from ..checkpoints import unwrapped
from ..errors import SettingError
from ..type_names import resolve_type
from .coco_metric import SwinPosCocoMetric
from .digits_metric import DigitsOnPhotosMetric

# Metrics whose settings are known here.
_KNOWN = (CocoMetric, SwinPosCocoMetric, DigitsOnPhotosMetric)
# Words in the names of modules that predict masks.
_MASK_WORDS = ('mask', 'inst', 'solo', 'seg', 'panoptic')


def check_evaluators(cfg: Config, parts: Iterable[str]) -> None:
    """Check the evaluators of a config before anything is built.

    Args:
        cfg: an MMDetection config.
        parts: any of ``'val'`` and ``'test'``; others are ignored.

    Raises:
        SettingError: if a ``CocoMetric`` has settings without a right result, or a ``MultiDatasetsEvaluator`` lacks
            a metric or a prefix for a data set.
    """
    for part in sorted(set(parts) & {'val', 'test'}):
        name, evaluator = f'{part}_evaluator', cfg.get(f'{part}_evaluator')
        _check_multi_datasets(name, evaluator, cfg.get(f'{part}_dataloader'))
        for settings in _metric_settings(evaluator):
            _check_metric(name, settings)


def use_own_metric(runner: Runner) -> None:
    """Replace ``CocoMetric`` by ``SwinPosCocoMetric`` in a runner whose evaluators are not built yet.

    The numbers are the same, any ids are allowed, and settings without a right result are refused. The runner's config,
    which it has written already, keeps the names that the user gave.
    """
    for evaluator in (runner._val_evaluator, runner._test_evaluator):
        for settings in _metric_settings(evaluator):
            if resolve_type(METRICS, settings) is CocoMetric:
                settings['type'] = SwinPosCocoMetric
                print_log('CocoMetric is evaluated by SwinPosCocoMetric: the same numbers, with checks', 'current')


def check_masks_predicted(runner: Runner, part: str) -> None:
    """Check that a detector predicts masks if masks are to be evaluated, before it is trained or tested.

    Args:
        runner: whose model is built.
        part: ``'val'`` or ``'test'``, whose evaluator will be used.

    Raises:
        SettingError: if it certainly predicts none.
    """
    model = unwrapped(runner.model)
    if not isinstance(model, BaseDetector) or _may_predict_masks(model):
        return
    name = f'{part}_evaluator'
    for settings in _metric_settings(getattr(runner, f'_{name}')):
        metric = resolve_type(METRICS, settings)
        kinds = settings.get('metric', ('bbox', 'segm') if metric is DigitsOnPhotosMetric else 'bbox')
        if metric in _KNOWN and 'segm' in ([kinds] if isinstance(kinds, str) else kinds):
            raise SettingError(f"{name}.metric has 'segm', which evaluates masks, but {type(model).__name__} with "
                               f"these heads predicts none: set {name}.metric to 'bbox', or give the detector a mask "
                               'head')


def _may_predict_masks(model: nn.Module) -> bool:
    if hasattr(model, 'roi_head'):
        return model.roi_head.with_mask
    words = [type(model).__name__, *(text for name, module in model.named_modules() if not name.startswith('backbone')
                                     for text in (name, type(module).__name__))]
    return any(known in word.lower().replace('instancenorm', '') for word in words for known in _MASK_WORDS)


def _metric_settings(evaluator: Any) -> Iterator[MutableMapping]:
    """Yield the settings of each metric of an evaluator that is not built yet."""
    if isinstance(evaluator, Mapping) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    for settings in evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]:
        if isinstance(settings, MutableMapping):
            yield settings


def _check_multi_datasets(name: str, evaluator: Any, dataloader: Any) -> None:
    """Check that metrics, prefixes and data sets are equally many: mmdet ignores items beyond the shortest list."""
    if not isinstance(evaluator, Mapping) or 'MultiDatasetsEvaluator' not in str(evaluator.get('type')):
        return
    dataset = (dataloader or {}).get('dataset') or {}
    numbers = dict(metrics=len(list(_metric_settings(evaluator))),
                   prefixes=len(evaluator.get('dataset_prefixes') or ()))
    if isinstance(dataset, Mapping):
        numbers['data sets'] = len(dataset.get('datasets') or [dataset])
    if len(set(numbers.values())) > 1:
        counted = ', '.join(f'{number} {what}' for what, number in numbers.items())
        raise SettingError(f'{name} is a MultiDatasetsEvaluator with {counted}: it needs a metric and a prefix for '
                           'each data set of the ConcatDataset')


def _check_metric(name: str, settings: Mapping) -> None:
    """Build a metric without its annotation file: its settings are checked then."""
    kind = resolve_type(METRICS, settings)
    if kind not in _KNOWN:
        return
    plain = {key: value for key, value in settings.items() if key not in ('type', 'ann_file', '_scope_')}
    try:
        (SwinPosCocoMetric if kind is CocoMetric else kind)(**plain)
    except SettingError as error:
        raise SettingError(f'{name}: {error}') from error
    except TypeError:
        pass  # such as an unknown argument: the runner builds this metric next, and that error names the argument
