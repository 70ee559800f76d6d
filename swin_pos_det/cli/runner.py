"""Read a config with the changes of the command line, and build its runner."""
from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoints import is_sharded, unwrapped
from ..data.coco_root import apply_coco_root
from ..engine.amp import has_accelerator
from ..engine.strategies import check_strategy, choose_runner, run_on_cpu
from ..errors import UserError
from ..evaluation.evaluator_checks import check_evaluators, check_masks_predicted, use_own_metric
from ..models.data_preprocessor import check_channels
from ..type_names import use_scope
from .checkpoint_checks import classes_of
from .config_checks import check_config
from .data_checks import check_configured, name_bad_images
from .setting_checks import check_launcher, check_necks, check_num_classes


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` with the command line's changes: options, launcher, work dir, ``COCO_ROOT``.

    Raises:
        UserError: if the config is unreadable, an option does not fit it, or the launcher has not started this.
    """
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise UserError(f'config {args.config} does not exist (current directory: {os.getcwd()})')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:
        raise UserError(f'cannot read config {args.config}: {type(error).__name__}: {error}') from error
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(f'--cfg-options do not fit {args.config}: {_list_problem(cfg, args.cfg_options) or error}'
                            ) from error
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise UserError(f'the work dir {cfg.work_dir} is a file; --work-dir must be a folder')
    use_scope(cfg)
    check_config(cfg, args.cfg_options or ())
    apply_coco_root(cfg)
    return cfg


def _list_problem(cfg: Config, options: Iterable[str]) -> str | None:
    """Describe the first option that treats a list of the config as a dict."""
    for option in options:
        value, path = cfg, []
        for part in option.split('.'):
            if isinstance(value, list) and not part.isdigit():
                name = '.'.join(path)
                return f'{option}: {name} is a list: write {name}.0.{part} for its first item, or set all of {name}'
            try:
                value = value[int(part) if isinstance(value, list) else part]
            except (KeyError, IndexError, TypeError):
                break
            path.append(part)
    return None


def add_hook(cfg: Config, **hook: Any) -> None:
    """Add a hook, by its settings, to those of the config; its type names its scope, as the config may have any."""
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def check_data(cfg: Config, needed_for: Iterable[str], checkpoint_meta: Mapping[str, Any] | None = None) -> None:
    """Fail early, and in one line, when the data that ``cfg`` names are missing or unusable.

    Everything that MMDetection would silently drop is counted and logged, and unreadable images will be
    named; see docs/data.md.

    Args:
        cfg: an MMDetection config. Its pipelines get this package's ``SwinPosLoadImageFromFile``.
        needed_for: any of ``'train'``, ``'val'``, ``'test'``.
        checkpoint_meta: of the checkpoint that is evaluated or resumed, if there is one, as
            :func:`~swin_pos_det.cli.checkpoint_checks.check_checkpoint` returns it: its labels must be those of the
            data.

    Raises:
        CocoRootError: see :func:`swin_pos_det.data.coco_root.check_coco_root`.
        UserError: see :func:`swin_pos_det.cli.data_checks.check_configured`, :func:`check_num_classes` and
            :func:`swin_pos_det.evaluation.evaluator_checks.check_evaluators`.
    """
    parts = [part for part in needed_for if cfg.get(f'{part}_dataloader') is not None]
    name_bad_images(cfg)
    check_necks(cfg)
    check_num_classes(cfg, parts)
    # after what needs no file
    check_configured(cfg, parts, classes_of(checkpoint_meta or {}))
    check_evaluators(cfg, parts)


def join_processes(cfg: Config) -> None:
    """Join the other processes of the run, if there are any; later calls do nothing.

    MMEngine does this too, but late, and for GPUs only.
    """
    if cfg.launcher == 'none' or is_distributed():
        return
    if has_accelerator():
        init_dist(cfg.launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', dict(backend='nccl')))
    elif cfg.launcher == 'pytorch':
        torch.distributed.init_process_group(backend='gloo')


def prepare_testing(cfg: Config, checkpoint: str) -> None:
    """Set a config to load a checkpoint whole and to evaluate it in this process, however it was trained."""
    cfg.load_from, cfg.resume = checkpoint, False
    add_hook(cfg, type='mmdet.NothingFoundHook')
    if not is_sharded(checkpoint):
        cfg.pop('strategy', None)  # how a training was spread does not matter here, and a strategy needs its launcher
        cfg.pop('runner_type', None)
        add_hook(cfg, type='mmdet.RequireFullCheckpointHook')


def build_runner(cfg: Config, evaluated: str | None = None) -> Runner:
    """Build the runner that ``cfg`` asks for: ``FlexibleRunner`` if it names a strategy.

    Args:
        cfg: an MMDetection config.
        evaluated: ``'val'`` or ``'test'``, the part whose evaluator will be used, if any.

    Raises:
        UserError: if a part refuses its settings, or does not fit another.
    """
    choose_runner(cfg)
    if cfg.get('launcher') == 'pytorch' and not has_accelerator():
        join_processes(cfg)
        run_on_cpu(cfg)
    check_necks(cfg)
    check_strategy(cfg)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    check_channels(unwrapped(runner.model))
    if evaluated is not None:
        check_masks_predicted(runner, evaluated)
    use_own_metric(runner)
    return runner
