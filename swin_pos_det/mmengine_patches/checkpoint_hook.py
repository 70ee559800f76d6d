"""MMEngine's hook that saves checkpoints, mended."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner


class _RemovesLater:
    """A file backend that notes what to remove instead of removing it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.noted: List[Tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.noted.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self.noted.append(('rmtree', path))


class CheckpointHook(MMEngineCheckpointHook):
    """Saves a checkpoint before it removes the outdated one; takes MMEngine's arguments.

    MMEngine's own removes first: with ``max_keep_ckpts=1``, or for the best checkpoint, a run that is killed while it
    saves, or finds the disk full, leaves none. This one needs room for one more checkpoint than it keeps.
    """

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        for how, path in later.noted:  # not reached if saving failed
            if path not in self._kept():
                getattr(backend, how)(path)

    def _kept(self) -> List[str]:
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        return [path for path in (self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best) if path]

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: Dict[str, Any]) -> None:
        runner.call_hook('before_save_on_all_processes')  # MMEngine's before_save_checkpoint runs on the first only
        with self._removing_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)
