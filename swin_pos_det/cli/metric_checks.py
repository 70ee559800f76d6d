"""Check that the evaluation reports the metrics that hooks and schedulers follow."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config

from ..choices import MAX_DETS
from ..errors import SettingError
from ..evaluation.coco_metric import importance, item_names
from ..type_names import resolve_type, type_name
from .errors import closest

# Metrics of other libraries whose best value MMEngine's CheckpointHook knows to be the highest.
_SEGMENTATION = ('mIoU', 'mDice')
_MAP_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


def check_followed_metrics(cfg: Config) -> None:
    """Check that the evaluation has the metrics of ``save_best``, early stopping and ``ReduceOnPlateau`` schedulers.

    Args:
        cfg: an MMDetection config. Evaluators other than ``CocoMetric`` and its subclasses are not checked.

    Raises:
        SettingError: if a metric is not among those of ``val_evaluator``, or if there is no evaluation. MMEngine would
            raise a ``KeyError`` after the first one.
    """
    followed = [(where, name) for where, name in _followed(cfg) if name not in (None, '', 'auto')]
    if not followed:
        return
    where, name = followed[0]
    if cfg.get('val_dataloader') is None or cfg.get('val_evaluator') is None:
        raise SettingError(f'{where} is {name!r}, but the config has no evaluation: set val_dataloader, val_cfg and '
                           'val_evaluator')
    given = given_metrics(cfg.val_evaluator)
    for where, name in followed if given is not None else ():
        if name not in given and not _is_of_a_class(name, cfg.val_evaluator):
            raise SettingError(f'{where} is {name!r}, which val_evaluator does not give{closest(name, given)}: it '
                               f'gives {", ".join(given) or "no metric, as it has format_only=True"}')


def _followed(cfg: Config) -> Iterator[tuple[str, str]]:
    """Yield (setting, metric) of everything that follows a metric."""
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    for name in best if isinstance(best, (list, tuple)) else [best]:
        yield 'default_hooks.checkpoint.save_best', name
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        if isinstance(hook, Mapping) and type_name(hook) == 'EarlyStoppingHook':
            yield f'custom_hooks.{index}.monitor', hook.get('monitor')
    schedulers = cfg.get('param_scheduler') or ()
    for index, scheduler in enumerate([schedulers] if isinstance(schedulers, Mapping) else schedulers):
        if type_name(scheduler).startswith('ReduceOnPlateau'):
            yield f'param_scheduler.{index}.monitor', scheduler.get('monitor', 'loss')


def given_metrics(evaluators: Any) -> list[str] | None:
    """Return the names of the metrics of some evaluators, in their order; None if those of one are unknown."""
    found: list[str] = []
    for metric in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        kind = resolve_type(METRICS, metric)
        if not (isinstance(kind, type) and issubclass(kind, CocoMetric) and _computes_as_coco(kind)):
            return None
        prefix = metric.get('prefix') or kind.default_prefix
        found += [f'{prefix}/{name}' for name in ([] if metric.get('format_only') else _coco_names(metric))]
    return found


def main_metric(evaluators: Any) -> str | None:
    """Return the metric by which a model is judged: AP of masks, else of boxes, top-1 accuracy or mean IoU.

    Args:
        evaluators: one or several, as configured.

    Returns:
        The name; None if no evaluator is of a known kind.
    """
    names: list[str] = []
    for metric in evaluators if isinstance(evaluators, Sequence) else [evaluators]:
        names += given_metrics(metric) or _names_elsewhere(metric)
    return min(names, key=importance, default=None)


def _names_elsewhere(metric: Mapping[str, Any]) -> list[str]:
    """Return the main metric of mmpretrain's and mmsegmentation's default evaluators."""
    prefix, kind = metric.get('prefix'), type_name(metric)
    if kind == 'Accuracy' and isinstance(metric.get('thrs', 0.), (int, float)):
        ranks = metric.get('topk', 1)
        return [f'{prefix or "accuracy"}/top1'] if 1 in ([ranks] if isinstance(ranks, int) else ranks) else []
    if kind == 'IoUMetric':
        first = metric.get('iou_metrics', ['mIoU'])[0]
        return [f'{prefix}/{first}' if prefix else first] if first in _SEGMENTATION else []
    return []


def _computes_as_coco(kind: type[CocoMetric]) -> bool:
    """Return whether a metric keeps the names of ``CocoMetric``, and does not compute results by itself."""
    module = kind.compute_metrics.__module__
    return module == CocoMetric.__module__ or module.startswith('swin_pos_det.')


def _coco_names(metric: Mapping[str, Any]) -> Iterator[str]:
    kinds = metric.get('metric', 'bbox')
    items = metric.get('metric_items')
    numbers = metric.get('proposal_nums', MAX_DETS)
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind == 'proposal':
            yield from items or [name for name in item_names(numbers) if name.startswith('AR')]
        elif kind == 'proposal_fast':
            yield from (f'AR@{number}' for number in numbers)
        else:
            yield from (f'{kind}_{item}' for item in items or _MAP_ITEMS)


def _is_of_a_class(name: str, evaluators: Any) -> bool:
    """Return whether ``name`` is the AP of a class, which ``classwise=True`` reports."""
    return name.endswith('_precision') and any(
        metric.get('classwise') for metric in (evaluators if isinstance(evaluators, Sequence) else [evaluators]))
