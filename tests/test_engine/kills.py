"""Kill a training at each of its operations on files, or fill the disk from there on; resume it, and see how it ends.

``python -m tests.test_engine.kills [--full-disk]`` prints the counts for a runner with this package's hooks, and
``SWIN_POS_DET_PATCHES=0 TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python -m tests.test_engine.kills --plain`` those for
MMEngine alone (which cannot read its own checkpoints on torch >= 2.6 without that variable).
"""
from __future__ import annotations

import argparse
import builtins
import errno
import gc
import hashlib
import io
import os
import pickle
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional
from unittest import mock

import mmengine.runner.runner
import torch

from swin_pos_det.errors import UserError
from tests.test_engine.test_exact_resume import make_runner

_CALLS = ('open', 'mkdir', 'rmdir', 'replace', 'rename', 'unlink', 'remove', 'fsync', 'write', 'ftruncate', 'chmod',
          'chown', 'link', 'symlink', 'utime')
_open = builtins.open


class _Raw(io.FileIO):
    """A file below Python's buffers: what it is given reaches the system."""

    step: Callable[..., None]

    def write(self, data: Any) -> int:
        self.step('write', self.name, lambda: super(_Raw, self).write(memoryview(data)[:len(data) // 2]))
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            self.step('close', self.name)
        super().close()


class Operations:
    """Count the operations on files below a folder; SIGKILL this process at the ``limit``-th, half of a write done.

    ``full_disk``: let this operation, if it needs room, and all later ones that do, fail instead.
    """

    def __init__(self, folder: Path, limit: Optional[int] = None, full_disk: bool = False) -> None:
        self.folder, self.limit, self.full_disk = str(folder), limit, full_disk
        self.names: List[str] = []

    def start(self) -> None:
        """Watch from now on, for the rest of this process."""
        for name in _CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        builtins.open = io.open = self._open

    def _step(self, name: str, path: str, half: Optional[Callable[[], None]] = None) -> None:
        self.names.append(f'{name} {os.path.basename(path)}')
        if self.full_disk and len(self.names) >= self.limit and name in ('write', 'mkdir', 'fsync'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if len(self.names) == self.limit and not self.full_disk:
            if half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    def _watched(self, name: str, call: Callable) -> Callable:
        def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
            where = _name_of(path)
            if where.startswith(self.folder):
                self._step(name, where)
            return call(path, *args, **kwargs)

        return watched

    def _open(self, path: Any, mode: str = 'r', buffering: int = -1, encoding: Optional[str] = None,
              errors: Optional[str] = None, newline: Optional[str] = None, closefd: bool = True,
              opener: Any = None) -> Any:
        where = _name_of(path)
        if not set(mode) & set('wax+') or not where.startswith(self.folder):
            return _open(path, mode, buffering, encoding, errors, newline, closefd, opener)
        self._step('open', where)
        raw = _Raw(path, mode.replace('b', '').replace('t', ''), closefd, opener)
        raw.step = self._step
        buffer = io.BufferedRandom(raw) if '+' in mode else io.BufferedWriter(raw)
        return buffer if 'b' in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)


def _name_of(path: Any) -> str:
    return os.readlink(f'/proc/self/fd/{path}') if isinstance(path, int) else os.path.abspath(os.fsdecode(path))


@dataclass(frozen=True)
class End:
    """How a training ended: its iteration, and a digest of weights and optimizer; or the error."""

    iteration: int = -1
    digest: str = ''
    error: str = ''


def end_of(made: Any) -> End:
    """Train, and look."""
    try:
        made.train()
    except Exception as error:
        return End(error=_kind(error))
    state = [made.model.state_dict(), made.optim_wrapper.state_dict()['state']]
    return End(made.iter, hashlib.sha256(pickle.dumps(_numbers(state))).hexdigest())


def _kind(error: Exception) -> str:
    """Return the name of an error, or note that tools/train.py prints it as one line: a user's, or a full disk."""
    one_line = isinstance(error, UserError) or isinstance(error, OSError) and error.errno == errno.ENOSPC
    return 'one line' if one_line else type(error).__name__


def _numbers(state: Any) -> Any:
    if isinstance(state, dict):
        return [_numbers(state[key]) for key in sorted(state)]
    return state.tolist() if isinstance(state, torch.Tensor) else [_numbers(value) for value in state] if isinstance(
        state, list) else state


def in_child(function: Callable, *args: Any) -> Any:
    """Call in a forked process and return what that returns; None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        with os.fdopen(writing, 'wb') as pipe:
            pipe.write(pickle.dumps(function(*args)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, 'rb') as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(result) if result else None


def whole(folder: Path) -> int:
    """Return the iteration of the newest whole checkpoint; -1 if there is none."""
    found = [-1]
    for path in folder.glob('*.pth'):
        try:
            saved = torch.load(path, weights_only=False)
            found.append(saved['meta']['iter'] if 'optimizer' in saved else -1)
        except Exception:
            continue
    return max(found)


@dataclass
class Kills:
    """The outcomes of killing at each operation, or of a disk that is full from there on.

    Attributes:
        operations: names, in their order.
        want: the end without a kill.
        first: how the training ended itself; None if it was killed.
        ends: how the resumed training ended then.
        saved: the iteration of the newest whole checkpoint when it was resumed.
    """

    operations: List[str]
    want: End
    first: List[Optional[End]]
    ends: List[End]
    saved: List[int]

    def counts(self, ends: List[Optional[End]]) -> Dict[str, int]:
        """Count how many ended in which way."""
        def kind(end: Optional[End]) -> str:
            if end is None or end.error:
                return 'killed' if end is None else end.error
            if end.iteration != self.want.iteration:
                return f'iteration {end.iteration}'
            return 'the same' if end.digest == self.want.digest else 'other weights'

        return dict(Counter(map(kind, ends)))

    @property
    def lost(self) -> int:
        """Count the kills after which the newest whole checkpoint was older than after an earlier one."""
        return sum(saved < max(self.saved[:place + 1]) for place, saved in enumerate(self.saved))


def kill_everywhere(folder: Path, make: Callable[..., Any], full_disk: bool = False, every: int = 1,
                    logs: int = 1) -> Kills:
    """Kill a training at each operation on files of its work dir, and resume.

    Args:
        folder: for the work dirs.
        make: returns a runner of a work dir, and resumes with ``resume=True``.
        full_disk: instead of a kill, let all that needs room fail from there on.
        every: at each so-and-so-many-th operation only.
        logs: the same, on anything but checkpoints and drafts.
    """
    def run(name: str, limit: Optional[int] = None) -> Any:
        operations = Operations(folder / name, limit, full_disk and limit is not None)
        operations.start()
        end = end_of_making(make, folder / name)
        return end, operations.names

    with mock.patch.object(mmengine.runner.runner, 'collect_env', dict):  # it starts compilers to ask for versions
        end_of(make(folder / 'warm'))
        gc.freeze()  # else a collection in a child copies all of the parent's memory
        want, names = in_child(run, 'whole')
        kills = Kills(names, want, [], [], [])
        for place, name in enumerate(names, 1):
            if place % every or place % logs and not name.endswith(('.pth', '.tmp')):
                continue
            work_dir = folder / str(place)
            kills.first.append((in_child(run, work_dir.name, place) or [None])[0])
            kills.saved.append(whole(work_dir))
            kills.ends.append(in_child(end_of_making, make, work_dir, dict(resume=True)))
        gc.unfreeze()
    return kills


def end_of_making(make: Callable[..., Any], work_dir: Path, settings: Optional[Dict[str, Any]] = None) -> End:
    """Make a runner and train, and look."""
    try:
        made = make(work_dir, **(settings or {}))
    except Exception as error:
        return End(error=_kind(error))
    return end_of(made)


def training(folder: Path, plain: bool = False, by_epoch: bool = True, **settings: Any) -> Any:
    """Return a training of 12 iterations that saves a checkpoint every four, the best, and no more than one of each."""
    saving = dict(interval=1) if by_epoch else dict(interval=4, by_epoch=False)
    hook = dict(type='mmengine.CheckpointHook') if plain else {}
    return make_runner(
        folder, by_epoch=by_epoch, hooks=not plain, val_interval=1 if by_epoch else 4, logger=dict(interval=2),
        log_level='INFO', checkpoint=dict(max_keep_ckpts=1, save_best='mean', rule='greater', **saving, **hook),
        **settings)


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--plain', action='store_true', help="MMEngine's own hooks only")
    parser.add_argument('--full-disk', action='store_true', help='instead of a kill')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for by_epoch in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            kills = kill_everywhere(
                Path(folder), partial(training, plain=args.plain, by_epoch=by_epoch), args.full_disk)
        operations = Counter(name.split()[0] for name in kills.operations)
        print(f'by {"epoch" if by_epoch else "iteration"}: at '
              f'{", ".join(f"{count} {name}" for name, count in operations.most_common())}: '
              f'{kills.counts(kills.first)}; then resumed: {kills.counts(kills.ends)}; '
              f'{kills.lost} times a whole checkpoint was lost')


if __name__ == '__main__':
    main()
