"""The files in a folder that a run has written, and so may remove."""
from __future__ import annotations

import json
import logging
import os.path as osp
from typing import Any, Dict, Iterable, List, Optional

from mmengine.logging import print_log

RECORD = '.written_checkpoints.json'


class WrittenFiles:
    """The names of the files that a run has written into a folder, kept in a file beside them.

    Args:
        backend: MMEngine's file backend of the folder.
        folder: with the files.
    """

    def __init__(self, backend: Any, folder: str) -> None:
        self._backend = backend
        self._folder = folder
        self._record = backend.join_path(folder, RECORD)
        self._outdated: Dict[str, bool] = {}  # by name

    def load(self, resumed: str) -> None:
        """Adopt the files of an earlier run that wrote the checkpoint ``resumed``, if it is in this folder.

        A damaged record is ignored: the files then stay.
        """
        try:
            content = json.loads(self._backend.get_text(self._record))
            written, outdated = content['written'], content['outdated']
        except (OSError, ValueError, TypeError, KeyError):
            return
        if isinstance(written, list) and isinstance(outdated, list):
            self._outdated = {name: name in outdated for name in written if isinstance(name, str)}
        if self.name_of(resumed) is None:
            self._outdated = {}

    def name_of(self, path: Any) -> Optional[str]:
        """Return the name of a file that the run wrote to the folder; None for any other, and for links."""
        if not isinstance(path, str):
            return None
        folder, name = osp.split(path)
        if name not in self._outdated:
            return None
        if '://' in self._folder:
            return name if folder == self._folder else None
        try:
            here = osp.realpath(folder) == osp.realpath(self._folder) and not osp.islink(path)
        except ValueError:  # not a path
            return None
        return name if here else None

    def add(self, names: Iterable[str]) -> None:
        """Note files that are about to be written."""
        self._outdated.update(dict.fromkeys(names, False))
        self._save()

    def mark(self, path: str, outdated: bool) -> None:
        """Note whether a file is to be removed when its successor is complete; files of others are ignored."""
        name = self.name_of(path)
        if name is not None:
            self._outdated[name] = outdated
            self._save()

    def forget(self, name: str) -> None:
        """Note that a file was removed."""
        del self._outdated[name]
        self._save()

    def outdated(self) -> List[str]:
        """Return the paths of the files that were to be removed when the run was killed."""
        return [self._backend.join_path(self._folder, name) for name, outdated in self._outdated.items() if outdated]

    def _save(self) -> None:
        content = dict(written=list(self._outdated), outdated=[name for name, old in self._outdated.items() if old])
        try:
            self._backend.put_text(json.dumps(content), self._record)
        except OSError as error:  # no reason to stop a training: a run that resumes from here removes less
            print_log(str(error), logger='current', level=logging.WARNING)
