"""What the tools share: arguments, configs, and how a runner is built and run."""
from __future__ import annotations

import argparse
import errno
import os
import os.path as osp
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoints import CheckpointError
from ..data.coco_root import CocoRootError, apply_coco_root, check_coco_root
from ..engine.amp import has_accelerator
from ..engine.strategies import check_strategy, choose_runner, run_on_cpu
from .data_checks import check_configured
from .errors import UserError, telling_mistakes
from .setting_checks import check_launcher, check_neck, check_num_classes

# What the system says when files cannot be written.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
                 errno.EEXIST)


class _Options(DictAction):
    """``--cfg-options`` that answers a mistyped pair with argparse's usage line instead of a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        for pair in values:
            if '=' not in pair:
                raise argparse.ArgumentError(self, f'{pair!r} is not of the form key=value')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError, SyntaxError) as error:
            raise argparse.ArgumentError(self, f'{" ".join(values)}: {error}') from error


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of both tools; their names and meaning are MMDetection's."""
    add_config_arguments(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how the processes of a distributed run were started (default: none, one process); '
                             'tools/dist_*.sh and tools/slurm_*.sh set it')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help='set by launchers: the number of this process on its machine')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every tool that reads a config: its overrides, and ``--traceback``."""
    parser.add_argument('--cfg-options', nargs='+', action=_Options, metavar='KEY=VALUE',
                        help='settings of the config to override, such as train_cfg.max_epochs=3 or '
                             '\'data_preprocessor.mean="[0,0,0]"\' (quote lists, no blanks inside)')
    parser.add_argument('--traceback', action='store_true',
                        help='show where an error came from, also for mistakes that are told in one line otherwise')


def load_config(args: argparse.Namespace) -> Config:
    """Reads ``args.config`` with the command line's changes: options, launcher, work dir, ``COCO_ROOT``.

    Raises:
        UserError: if the config cannot be read, an option does not fit it, or the launcher has not started this.
    """
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not osp.isfile(args.config):
        raise UserError(f'config {args.config} does not exist (current directory: {os.getcwd()})')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:
        raise UserError(f'config {args.config} cannot be read: {type(error).__name__}: {error}') from error
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(f'--cfg-options do not fit {args.config}: {error}') from error
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise UserError(f'the work dir {cfg.work_dir} is a file; --work-dir names a folder, which is made if need be')
    apply_coco_root(cfg)
    return cfg


def note_unused(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Says on stderr which of some arguments were given and have no effect.

    Args:
        parser: of the tool.
        args: what it has read.
        names: as in ``args``.
        why: such as ``'without --confusion-matrix'``.
    """
    given = [f'--{name.replace("_", "-")}' for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        print(f'note: {" and ".join(given)} {"has" if len(given) == 1 else "have"} no effect {why}', file=sys.stderr)


def add_hook(cfg: Config, **hook: Any) -> None:
    """Adds a hook, by its settings, to those of the config."""
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def check_data(cfg: Config, needed_for: Iterable[str]) -> None:
    """Fails early, and in one line, when the COCO files that ``cfg`` names are not there or cannot be used.

    Raises:
        CocoRootError: see :func:`swin_pos_det.data.coco_root.check_coco_root`.
        UserError: see :func:`swin_pos_det.cli.data_checks.check_configured`, and :func:`check_num_classes`.
    """
    parts = [part for part in needed_for if cfg.get(f'{part}_dataloader') is not None]
    check_coco_root(cfg, parts)
    with telling_mistakes():
        check_configured(cfg, parts)
        check_num_classes(cfg, parts)


def join_processes(cfg: Config) -> None:
    """Joins the other processes of the run, if there are any and it is not done yet; later steps find it done.

    MMEngine does this too, but late, and for GPUs only.
    """
    if cfg.launcher == 'none' or is_distributed():
        return
    if has_accelerator():
        init_dist(cfg.launcher, **(cfg.get('env_cfg') or {}).get('dist_cfg', dict(backend='nccl')))
    elif cfg.launcher == 'pytorch':
        torch.distributed.init_process_group(backend='gloo')


def build_runner(cfg: Config) -> Runner:
    """Builds the runner that ``cfg`` asks for: ``FlexibleRunner`` if it names a strategy.

    Raises:
        UserError: if a part refuses its settings, or does not fit another.
    """
    choose_runner(cfg)
    if cfg.launcher == 'pytorch' and not has_accelerator():
        join_processes(cfg)
        run_on_cpu(cfg)
    with telling_mistakes():
        check_strategy(cfg)
        runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    check_neck(runner.model)
    return runner


def run_cli(command: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser,
            argv: Sequence[str] | None = None) -> int:
    """Parses ``argv``, runs ``command``, and turns a user's mistake into one line on stderr.

    Args:
        command: does the work; gets the parsed arguments. It may return an exit status of its own.
        parser: of the tool; must have ``--traceback``.
        argv: default: the command line.

    Returns:
        The exit status: the command's or 0, or 1 after a user's mistake. Any other exception passes through with its
        traceback.
    """
    args = parser.parse_args(argv)
    try:
        return int(command(args) or 0)
    except (UserError, CheckpointError, CocoRootError) as error:
        if args.traceback:
            raise
        return _tell(str(error))
    except OSError as error:
        if args.traceback or error.errno not in _CANNOT_WRITE:
            raise
        return _tell(f'{error.filename or "a file of the work dir"}: {error.strerror}. Checkpoints that are complete '
                     'stay as they are')


def _tell(error: str) -> int:
    print(f'error: {" ".join(error.split())}', file=sys.stderr)
    return 1
