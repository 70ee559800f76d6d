"""MMEngine's hook that saves checkpoints, corrected."""
from __future__ import annotations

import os.path as osp
import re
from numbers import Real
from typing import Any, Dict, List, Optional, Set, Tuple

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from ..checkpoints import remove_drafts
from .loading import checkpoint_to_load
from .written_files import RECORD, WrittenFiles

POINTER = 'last_checkpoint'


class _PostponingBackend:
    """A file backend that notes the files to remove instead of removing them."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.files: Optional[WrittenFiles] = None
        self.requested: List[Tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self._request('remove', path)

    def rmtree(self, path: str) -> None:
        self._request('rmtree', path)

    def _request(self, how: str, path: str) -> None:
        self.requested.append((how, path))
        if self.files is not None:
            self.files.mark(path, outdated=True)


class CheckpointHook(MMEngineCheckpointHook):
    """A ``CheckpointHook`` that saves a checkpoint before it removes the outdated one; takes MMEngine's arguments.

    MMEngine's own removes first: with ``max_keep_ckpts=1``, or for the best checkpoint, a run that is killed while it
    saves, or finds the disk full, leaves none. This hook needs room for one more checkpoint than it keeps.

    It removes only files that the run has written into its own folder, before it was resumed or since; a list of
    these files is kept beside them. MMEngine's removes any file or folder that a resumed checkpoint calls the best one.

    At the start of a training it removes files that killed ones have left in the folder: drafts of files, and
    checkpoints that were to be removed when their successor was complete.
    """

    _files: WrittenFiles  # of the main process, the only one that removes anything

    @property
    def file_backend(self) -> Any:
        """Return MMEngine's file backend for the folder, which postpones removing files."""
        return self._file_backend

    @file_backend.setter
    def file_backend(self, backend: Any) -> None:
        self._file_backend = _PostponingBackend(backend)

    def before_train(self, runner: Runner) -> None:
        """Adopt the files of the resumed run, and clean up after it."""
        _drop_malformed(runner)
        super().before_train(runner)
        if not is_main_process():
            return
        self._files = self.file_backend.files = WrittenFiles(self.file_backend, self.out_dir)
        resumed = _resumed_checkpoint(runner)
        if resumed is not None:
            self._files.load(resumed)
        self._disown_best(runner)
        self.last_ckpt = resumed
        for path in self._files.outdated():
            self._request_removal(path)
        self._remove_requested(runner)
        self.last_ckpt = None
        self._remove_drafts(runner)

    def _request_removal(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # of a sharded training
            self.file_backend.rmtree(path)

    def _disown_best(self, runner: Runner) -> None:
        """Forget a best checkpoint of another run: it would be removed, or weights published into its folder."""
        named = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        foreign = [path for path in named if path is not None and self._files.name_of(path) is None]
        for path in foreign:
            runner.logger.warning(f'the best checkpoint so far, {path!r}, was not written into {self.out_dir} by this '
                                  'run: it stays as it is')
        if getattr(self, 'best_ckpt_path', None) in foreign:
            self.best_ckpt_path = None
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            if path in foreign:
                self.best_ckpt_path_dict[key] = None

    def _remove_drafts(self, runner: Runner) -> None:
        name = re.compile(r'(best_.+_)?' + self._name_pattern())
        for folder in {runner.work_dir, self.out_dir}:
            if '://' not in folder:
                removed = remove_drafts(folder, lambda of: bool(name.fullmatch(of)) or of in (POINTER, RECORD))
                if removed:
                    runner.logger.info(f'removed from {folder}, half-written by a training that was killed: '
                                       f'{", ".join(removed)}')

    def _name_pattern(self) -> str:
        """Return a regular expression of the names of checkpoints."""
        return r'\d+'.join(map(re.escape, re.split(r'\{[^{}]*\}', self.filename_tmpl)))

    def _forget_other_metric(self, runner: Runner, key: str) -> None:
        """Forget the best value of a resumed run that followed another metric than ``key``; its checkpoint stays."""
        info = runner.message_hub.runtime_info
        name = re.fullmatch(f'best_(.+)_{self._name_pattern()}', osp.basename(info.get('best_ckpt', '')))
        if name is not None and name[1] != key.replace('/', '_'):
            runner.logger.warning(f'the best checkpoint so far, {info["best_ckpt"]}, was chosen by another metric than '
                                  f'{key}: it stays, and the search for the best starts again')
            info.pop('best_score', None)
            del info['best_ckpt']
            self.best_ckpt_path = None

    def _kept(self) -> Set[Optional[str]]:
        """Return the names of the checkpoints to keep."""
        paths = [self.last_ckpt, getattr(self, 'best_ckpt_path', None),
                 *getattr(self, 'best_ckpt_path_dict', {}).values()]
        return {self._files.name_of(path) for path in paths} | set(
            map(self.filename_tmpl.format, getattr(self, 'keep_ckpt_ids', ())))

    def _remove_requested(self, runner: Runner) -> None:
        """Remove outdated files, now that their successor is complete."""
        backend, kept = self.file_backend, self._kept()
        requested, backend.requested = backend.requested, []
        for how, path in requested:
            name = self._files.name_of(path)
            if name is None:
                runner.logger.warning(f'{path} was not written by this run: it stays')
            elif name in kept:
                self._files.mark(path, outdated=False)
            else:
                getattr(backend.backend, how)(path)
                self._files.forget(name)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict[str, Any]) -> None:
        runner.call_hook('before_save_on_all_processes')  # MMEngine's before_save_checkpoint runs on the first only
        if is_main_process():
            self._files.add([self.filename_tmpl.format(step)])
        super()._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            self._remove_requested(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        if self.save_best:
            # MMEngine takes the first value for 'auto'.
            keys = list(metrics)[:1] if 'auto' in self.key_indicators else self.key_indicators
            if len(keys) == 1:
                self._forget_other_metric(runner, keys[0])
            if is_main_process():
                step = runner.epoch if self.by_epoch else runner.iter
                self._files.add(f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_') for key in keys)
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self._remove_requested(runner)


def _resumed_checkpoint(runner: Runner) -> Optional[str]:
    """Return the checkpoint that a training resumed from, as far as its runner knows; None without one."""
    return checkpoint_to_load(runner) if runner.iter > 0 and runner._resume else None


def _drop_malformed(runner: Runner) -> None:
    """Drop a resumed checkpoint's entries about other checkpoints if they are not of the type that MMEngine expects."""
    info = runner.message_hub.runtime_info
    for key, value in list(info.items()):
        wrong = (key.startswith('best_score') and not isinstance(value, Real)
                 or key.startswith('best_ckpt') and not isinstance(value, str)
                 or key == 'keep_ckpt_ids' and not (isinstance(value, list)
                                                    and all(type(step) is int for step in value)))
        if wrong:
            runner.logger.warning(f'{key} in the resumed checkpoint is {value!r:.80}, which is ignored')
            del info[key]
