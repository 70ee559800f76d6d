"""Replacements of MMEngine's functions that write and read ``last_checkpoint``."""
from __future__ import annotations

import functools
import os.path as osp
from contextlib import contextmanager
from typing import IO, Any, Callable, Iterator, Optional

from ..checkpoints import atomic_write, find_resumable


def opening_drafts(_: Any) -> Callable:
    """Return an ``open`` that writes files atomically."""

    @contextmanager
    def open_draft(path: str, mode: str) -> Iterator[IO]:
        with atomic_write(path) as draft, open(draft, mode) as file:
            yield file

    return open_draft


def finding_whole_ones(find_latest: Callable) -> Callable:
    """Wrap MMEngine's ``find_latest_checkpoint``: if the named file is missing, find the newest complete one."""

    @functools.wraps(find_latest)
    def find(path: str) -> Optional[str]:
        named = find_latest(path)
        return named if named and osp.exists(named) else find_resumable(path)

    return find
