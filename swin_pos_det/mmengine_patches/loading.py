"""Replacements of MMEngine's functions that load checkpoints."""
from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, Callable, Dict, Mapping

from torch import nn

from ..checkpoints import has_backbone, place_backbones, with_state_dict


def placing(load_state_dict: Callable) -> Callable:
    """Wrap MMEngine's ``load_state_dict``: backbones of this package get their weights, or nothing is loaded."""

    @functools.wraps(load_state_dict)
    def load(module: nn.Module, state_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> Any:
        return load_state_dict(module, place_backbones(module, state_dict), *args, **kwargs)

    return load


def choosing_weights(load_to_model: Callable) -> Callable:
    """Wrap MMEngine's ``_load_checkpoint_to_model``: models with our backbones take the entry that ``init_cfg`` takes.
    """

    @functools.wraps(load_to_model)
    def load(model: nn.Module, checkpoint: Dict[Any, Any], *args: Any, **kwargs: Any) -> Dict[Any, Any]:
        if has_backbone(model):
            checkpoint = with_state_dict(checkpoint)
        return load_to_model(model, checkpoint, *args, **kwargs)

    return load


def preparing_checkpoints(summary: Callable[[], str]) -> Callable[[Callable], Callable]:
    """Make a wrapper of ``call_hook``, which every runner calls between reading a checkpoint and using it.

    Args:
        summary: returns the line that each run logs once.
    """

    def wrap(call_hook: Callable) -> Callable:

        @functools.wraps(call_hook)
        def call(runner: Any, fn_name: str, **kwargs: Any) -> None:
            if fn_name == 'before_run':
                runner.logger.info(summary())
            elif fn_name == 'after_load_checkpoint':
                _prepare(runner.model, kwargs['checkpoint'])
            call_hook(runner, fn_name, **kwargs)

        return call

    return wrap


def _prepare(model: nn.Module, checkpoint: Dict[Any, Any]) -> None:
    """Lay out a checkpoint, in place, as MMEngine and its hooks expect it, if the model has a backbone of this package.
    """
    if not has_backbone(model):
        return
    found = with_state_dict(checkpoint)
    if found is not checkpoint:
        weights = found['state_dict']
        checkpoint['state_dict'] = _copy(checkpoint) if weights is checkpoint else weights


def _copy(state_dict: Mapping[Any, Any]) -> Mapping[Any, Any]:
    copy = OrderedDict(state_dict)
    if hasattr(state_dict, '_metadata'):
        copy._metadata = state_dict._metadata
    return copy
