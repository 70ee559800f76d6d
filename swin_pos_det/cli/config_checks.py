"""Check the top level of a config: settings that nothing reads, and settings of the wrong type."""
from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.runner._flexible_runner import FlexibleRunner

from ..errors import SettingTypeError
from .errors import closest

# Settings that MMEngine, MMDetection and this package (data_checks.py) read beside their runners' arguments.
_ALSO_READ = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'skip_unreadable_images', 'strategy', 'sync_bn',
    'tta_model', 'tta_pipeline'}
# A name of a config file may be a variable of the file; it is reported only if it is a likely misspelling.
_LIKENESS = 0.9
_DICTS = ('data_preprocessor', 'default_hooks', 'env_cfg', 'log_processor', 'model', 'optim_wrapper', 'randomness',
          'test_cfg', 'test_dataloader', 'train_cfg', 'train_dataloader', 'val_cfg', 'val_dataloader', 'visualizer')
_DICTS_OR_LISTS = ('param_scheduler', 'test_evaluator', 'val_evaluator')


def check_config(cfg: Config, overridden: Iterable[str] = ()) -> None:
    """Check the names and types of a config's top-level settings.

    Args:
        cfg: an MMDetection config.
        overridden: keys of ``--cfg-options``, such as ``'train_cfg.max_epochs'``. One that nothing reads is reported
            with any name: variables of a config file have been used by the time that options are merged.

    Raises:
        SettingTypeError: if a setting that must be a dict, or a list of dicts, is not.
    """
    _check_kinds(cfg)
    known = _known_settings()
    options = {key.partition('.')[0] for key in overridden}
    for name in sorted(options):
        if name not in known:
            _warn(f'--cfg-options {name} has no effect: neither MMEngine nor MMDetection reads a setting of this name'
                  f'{closest(name, known)}; a variable of the config file has been used when options are merged, so '
                  'set what it was used for, such as train_cfg.max_epochs or train_dataloader.dataset.data_root')
    for name in cfg:
        if name not in known and name not in options:
            likely = difflib.get_close_matches(name, known, 1, _LIKENESS)
            if likely:
                _warn(f'the config sets {name!r}, which nothing reads: did you mean {likely[0]!r}?')


def _check_kinds(cfg: Config) -> None:
    for name in (*_DICTS, *_DICTS_OR_LISTS):
        value = cfg.get(name)
        if not (value is None or isinstance(value, Mapping) or name in _DICTS_OR_LISTS and _is_list_of(value, Mapping)):
            kind = 'a dict or a list of dicts' if name in _DICTS_OR_LISTS else 'a dict'
            raise SettingTypeError(f'{name} must be {kind}, got {value!r}')
    hooks = cfg.get('custom_hooks')
    if hooks is not None and not _is_list_of(hooks, (Mapping, Hook)):
        raise SettingTypeError(f"custom_hooks must be a list of dicts, such as [dict(type='EMAHook')], got {hooks!r}; "
                               'set them in a config file, as --cfg-options can only change hooks that are there: '
                               'custom_hooks.0.KEY=VALUE')


def _is_list_of(value: Any, kind: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, kind) for one in value)


@cache
def _known_settings() -> frozenset[str]:
    arguments = {name for runner in (Runner, FlexibleRunner) for name in inspect.signature(runner.__init__).parameters}
    return frozenset(arguments - {'self', 'cfg'} | _ALSO_READ)


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
