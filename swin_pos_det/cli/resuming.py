"""Resuming a training: the choice of the checkpoint, and the message when a training stops early."""
from __future__ import annotations

import contextlib
import os.path as osp
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner

from ..checkpoints import CheckpointError, find_resumable
from ..engine.restart import may_restart, resume_after_restart
from ..errors import UserError
from .checkpoint_checks import check_checkpoint
from .following import name_best_metric
from .metric_checks import check_followed_metrics
from .runner import add_hook, build_runner, check_data, join_processes
from .setting_checks import check_optimizer

_RESUMES = (Runner.resume.__code__, FlexibleRunner.resume.__code__)
_INTERRUPTED = 130  # the exit status of programs that Ctrl-C ends


def prepare_resuming(cfg: Config, resume: str | None) -> dict[str, Any]:
    """Set the checkpoint to resume from, and add the hooks that make a resumed training equal an uninterrupted one.

    Args:
        cfg: its ``resume`` and ``load_from`` are set. Without a checkpoint to resume from, ``load_from`` stays.
        resume: a checkpoint, ``'auto'`` for the last one in the work dir, or None to follow the config.

    Returns:
        The ``meta`` of the resumed checkpoint; an empty one if a new training starts, also from other weights,
        which may have been trained on other classes.

    Raises:
        CheckpointError: if the checkpoint is unusable.
    """
    restarted = None
    if may_restart():
        join_processes(cfg)
        restarted = resume_after_restart(cfg)
    if resume is None and cfg.get('resume') and not cfg.get('load_from'):
        resume = 'auto'
    if restarted is None and resume == 'auto':
        resume = find_resumable(cfg.work_dir)
        print_log(f'resuming from {resume}' if resume else f'nothing to resume in {cfg.work_dir}: starting '
                  f'from {cfg.get("load_from") or "the beginning"}', logger='current')
        cfg.resume = resume is not None
    if restarted is None and resume is not None:
        cfg.resume, cfg.load_from = True, resume
    resumes = bool(cfg.get('resume'))
    meta = check_checkpoint(cfg.load_from, to_resume=resumes) if cfg.get('load_from') else {}
    add_hook(cfg, type='mmdet.ResumeHook')
    add_hook(cfg, type='mmdet.MissedEvaluationHook')
    return meta if resumes else {}


def train_config(cfg: Config, argv: Sequence[str], resume: str | None = None, allow_nonfinite: bool = False,
                 flag: str = '--resume') -> int:
    """Check all that a training needs, build it, and train.

    Args:
        cfg: as loaded, with what the command line changes.
        argv: of the tool, to say how to continue after a Ctrl-C.
        resume: see :func:`prepare_resuming`.
        allow_nonfinite: train on when a loss or a weight is NaN or infinite.
        flag: see :func:`train`.

    Returns:
        The exit status.

    Raises:
        UserError: see :func:`~swin_pos_det.cli.runner.check_data`, :func:`prepare_resuming` and
            :func:`~swin_pos_det.cli.runner.build_runner`.
    """
    check_optimizer(cfg)
    name_best_metric(cfg)
    check_followed_metrics(cfg)
    for hook in ('mmdet.TrainingGuardHook', 'mmdet.NothingFoundHook'):
        add_hook(cfg, type=hook, allow_nonfinite=allow_nonfinite)
    check_data(cfg, ['train', 'val'], prepare_resuming(cfg, resume))
    return train(build_runner(cfg, evaluated='val'), argv, flag)


def train(runner: Runner, argv: Sequence[str], flag: str = '--resume') -> int:
    """Train; report a Ctrl-C, an unusable training state and a lost work dir in one line.

    Args:
        runner: as built.
        argv: of the tool.
        flag: with which the tool resumes a training; '' if it does so anyway.

    Returns:
        The exit status.
    """
    try:
        with _training_errors(runner):
            runner.train()
    except KeyboardInterrupt:
        if is_main_process():
            print(_how_to_go_on(runner, argv, flag), file=sys.stderr)
        return _INTERRUPTED
    return 0


@contextlib.contextmanager
def _training_errors(runner: Runner) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if osp.isdir(runner.log_dir):
            raise
        raise UserError(f'the work dir {runner.work_dir}, or its folder {osp.basename(runner.log_dir)}, was removed '
                        f'during the training (cannot write {error.filename})') from error
    except Exception as error:
        frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(code in _RESUMES for code in frames) or 'load_state_dict' not in [code.co_name for code in frames]:
            raise
        detail = f'{type(error).__name__}: {error}'
        raise CheckpointError(
            f'the training state in checkpoint {runner._load_from} does not fit the training ({detail}). To start a '
            f'new training from its weights, use --cfg-options load_from={runner._load_from}') from error


def _how_to_go_on(runner: Runner, argv: Sequence[str], flag: str) -> str:
    where = f'interrupted at iteration {runner.iter}'
    with contextlib.suppress(CheckpointError):
        latest = find_resumable(runner.work_dir)
        if latest:
            if runner.launcher != 'none':
                return f'{where}. Start it as before{flag and f", with {flag},"} to continue from {latest}'
            return f'{where}. To continue from {latest}: {resume_command(argv, flag)}'
    return f'{where}, before a checkpoint was saved'


def resume_command(argv: Sequence[str], flag: str = '--resume') -> str:
    """Return the command that resumes a training.

    Args:
        argv: of the training, without the program's name. Of several ``--resume`` the last one counts.
        flag: see :func:`train`.
    """
    return shlex.join(['python', sys.argv[0], *argv, *([flag] if flag and argv[-1] != flag else [])])
