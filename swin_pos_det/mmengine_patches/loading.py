"""Replacements of MMEngine's functions that load checkpoints."""
from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from typing import Any, Callable, Dict, Mapping, Optional

import mmengine.runner
from mmengine.hooks import EMAHook
from mmengine.logging import print_log
from torch import nn

from ..checkpoints import check_averages, has_backbone, overwritten_by, remap_backbone_keys, with_state_dict
from ..errors import SettingError


def placing(load_state_dict: Callable) -> Callable:
    """Wrap MMEngine's ``load_state_dict``: backbones of this package get their weights, or nothing is loaded."""

    @functools.wraps(load_state_dict)
    def load(module: nn.Module, state_dict: Mapping[Any, Any], *args: Any, **kwargs: Any) -> Any:
        return load_state_dict(module, remap_backbone_keys(module, state_dict), *args, **kwargs)

    return load


def choosing_weights(load_to_model: Callable) -> Callable:
    """Wrap MMEngine's ``_load_checkpoint_to_model``: models with our backbones use the same entry as ``init_cfg``.
    """

    @functools.wraps(load_to_model)
    def load(model: nn.Module, checkpoint: Dict[Any, Any], *args: Any, **kwargs: Any) -> Dict[Any, Any]:
        if has_backbone(model):
            checkpoint = with_state_dict(checkpoint)
        return load_to_model(model, checkpoint, *args, **kwargs)

    return load


def before_hooks(stage: str, act: Callable[..., None]) -> Callable[[Callable], Callable]:
    """Make a wrapper of a runner's ``call_hook``.

    Args:
        stage: such as ``'after_load_checkpoint'``, which runners call between reading a checkpoint and using it.
        act: called with the runner and the hooks' arguments, before the hooks of that stage.
    """

    def wrap(call_hook: Callable) -> Callable:

        @functools.wraps(call_hook)
        def call(runner: Any, fn_name: str, **kwargs: Any) -> None:
            if fn_name == stage:
                act(runner, **kwargs)
            call_hook(runner, fn_name, **kwargs)

        return call

    return wrap


def skipping_pretrained(method: Callable) -> Callable:
    """Wrap a runner's method that calls ``init_weights``, to skip weights that a checkpoint will overwrite."""

    @functools.wraps(method)
    def call(runner: Any, *args: Any, **kwargs: Any) -> Any:
        with overwritten_by(None if runner._has_loaded else checkpoint_to_load(runner)):
            return method(runner, *args, **kwargs)

    return call


def checkpoint_to_load(runner: Any) -> Optional[str]:
    """Return the checkpoint that a runner loads or resumes from, as ``load_or_resume`` chooses it."""
    if isinstance(runner._resume, str):  # of a FlexibleRunner
        return runner._resume
    if runner._resume and not runner._load_from:
        return mmengine.runner.find_latest_checkpoint(runner.work_dir)
    return runner._load_from or None


def dropping_config(resume: Callable) -> Callable:
    """Wrap a strategy's ``resume``; some strategies call no hook between reading a checkpoint and using it."""

    @functools.wraps(resume)
    def resume_without_config(*args: Any, **kwargs: Any) -> Dict[Any, Any]:
        checkpoint = resume(*args, **kwargs)
        drop_config(None, checkpoint)
        return checkpoint

    return resume_without_config


def drop_config(runner: Any, checkpoint: Dict[Any, Any]) -> None:
    """Remove, in place, the config that MMEngine's runners would run as Python when they resume.

    They read ``gpu_ids`` from it, a setting of MMCV 1. MMEngine itself notes its config as ``meta['cfg']``.
    """
    meta = checkpoint.get('meta')
    if isinstance(meta, Mapping) and 'config' in meta:
        checkpoint['meta'] = {key: value for key, value in meta.items() if key != 'config'}
        print_log("the checkpoint has a config in meta['config'], which is Python code: it is not run",
                  logger='current', level=logging.WARNING)


def add_state_dict(runner: Any, checkpoint: Dict[Any, Any]) -> None:
    """Give a checkpoint, in place, the entry that hooks look for, if the model has a backbone of this package.

    Raises:
        ValueError: if averaged weights that the ``EMAHook`` is about to load do not fit.
    """
    if not has_backbone(runner.model):
        return
    found = with_state_dict(checkpoint)
    if found is not checkpoint:
        weights = found['state_dict']
        checkpoint['state_dict'] = _copy(checkpoint) if weights is checkpoint else weights
    if runner._resume and 'ema_state_dict' in checkpoint and any(isinstance(hook, EMAHook) for hook in runner.hooks):
        check_averages(runner.model, checkpoint)


def refusing_stored_config(init_model: Callable) -> Callable:
    """Wrap ``BaseInferencer._init_model``, which runs the config in a checkpoint if it is given no other."""

    @functools.wraps(init_model)
    def init(inferencer: Any, cfg: Any, weights: Any, *args: Any, **kwargs: Any) -> Any:
        if not cfg:
            raise SettingError(f'{type(inferencer).__name__}: the config in {weights} is Python code, which would be '
                               'run: name a config of your own, as in DetInferencer(model=CONFIG, weights=...)')
        return init_model(inferencer, cfg, weights, *args, **kwargs)

    return init


def _copy(state_dict: Mapping[Any, Any]) -> Mapping[Any, Any]:
    copy = OrderedDict(state_dict)
    if hasattr(state_dict, '_metadata'):
        copy._metadata = state_dict._metadata
    return copy
