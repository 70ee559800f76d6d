"""Automatic restarts: a training that torchrun has restarted resumes from its last checkpoint."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoints import CheckpointError, atomic_write, find_resumable
from ..checkpoints.latest import POINTER
from .resume import RECORD, batches_done

EVALUATED = 'last_evaluation'


def may_restart() -> bool:
    """Return whether torchrun started this process and will restart it if it dies."""
    return int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) > 0


def resume_after_restart(cfg: Config) -> Optional[str]:
    """Make a config resume if the job of this process has already saved a checkpoint.

    ``TORCHELASTIC_RESTART_COUNT`` does not show this: after a restart it is 1 on the machine where a process died and
    still 0 on the others. A checkpoint in the work dir does not either: it may be from an earlier training. So the
    criterion is a checkpoint that is newer than torchrun. If any process sees one, all resume from it.

    Args:
        cfg: with ``work_dir``; ``resume`` and ``load_from`` are set if there is such a checkpoint.

    Returns:
        The checkpoint, or None.

    Raises:
        CheckpointError: on all processes, if some do not see the checkpoint: on several machines the work dir must be
            shared.
    """
    try:
        seen = find_resumable(cfg.work_dir)
    except CheckpointError:  # of this job or not: the other processes may know
        seen = None
    own = any(os.path.exists(path) and os.stat(path).st_mtime >= _parent_started()
              for path in (Path(cfg.work_dir, POINTER), seen) if path)
    # All processes must take the same branch, or they would wait for each other.
    votes = torch.tensor([float(own), -float(seen is not None)])
    all_reduce(votes, op='max')
    if votes[0] == 0:
        return None
    if votes[1] == 0:
        raise CheckpointError(f'cannot resume after a restart: not every process sees the last checkpoint in '
                              f'{cfg.work_dir}. On several machines, --work-dir must be on a file system they share')
    cfg.resume = True
    cfg.load_from = seen
    print_log(f'restarted by torchrun: resuming from {seen}', logger='current')
    return seen


def _parent_started() -> float:
    """Return when the parent process (torchrun) started, in seconds since 1970, to a second; 0 if unknown."""
    try:
        stat = Path(f'/proc/{os.getppid()}/stat').read_text().rpartition(')')[2].split()
        lines = Path('/proc/stat').read_text().splitlines()
    except OSError:
        return 0.
    boot = next((int(line.split()[1]) for line in lines if line.startswith('btime')), None)
    return 0. if boot is None else boot + int(stat[19]) / os.sysconf('SC_CLK_TCK')


@HOOKS.register_module()
class MissedEvaluationHook(Hook):
    """Evaluate a resumed checkpoint whose evaluation was interrupted, before the training continues.

    Checkpoints are saved before the evaluation that is due at the same time. A run that dies in the evaluation would
    resume after it; in the last one, it would end without a result. ``tools/train.py`` adds this hook by itself.
    """

    # After the other hooks' actions before a training, including saving the best checkpoint.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._checkpoint: Dict[str, Any] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Note the fields that show whether the checkpoint was saved within an epoch."""
        self._checkpoint = {key: checkpoint.get(key) for key in (RECORD, 'message_hub')}

    def before_train(self, runner: Runner) -> None:
        """Evaluate if an evaluation is due at the resumed iteration, and was not finished."""
        record = Path(runner.work_dir) / EVALUATED
        if runner.iter == 0:
            if is_main_process():
                record.unlink(missing_ok=True)
            return
        done = [record.is_file() and record.read_text().strip() == str(runner.iter)]
        broadcast_object_list(done)
        if not done[0] and not batches_done(self._checkpoint, runner) and _evaluation_due(runner):
            runner.logger.info(f'the evaluation due at iteration {runner.iter} was not finished: evaluating')
            runner.val_loop.run()
            runner.model.train()

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]] = None) -> None:
        """Note that the evaluation was finished."""
        if is_main_process():
            with atomic_write(Path(runner.work_dir) / EVALUATED) as draft:
                draft.write_text(str(runner.iter))


def _evaluation_due(runner: Runner) -> bool:
    """Return whether the training loop evaluates right after its current iteration or epoch."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return False
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    now, last = (runner.epoch, loop.max_epochs) if by_epoch else (runner.iter, loop.max_iters)
    loop._decide_current_val_interval()
    return now >= loop.val_begin and (now % loop.val_interval == 0 or now == last)
