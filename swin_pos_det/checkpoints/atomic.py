"""Atomic writing of files, if that is possible without harm to other users."""
from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple, Union

from mmengine.fileio import LocalBackend

from .io import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# A draft of NAME is called .NAME.XXXXXXXX.tmp.
_DRAFT = re.compile(r'\.(.+)\.[a-z0-9_]{8}\.tmp', re.DOTALL)
# No draft is possible beside the file: its folder is not writable, or the name is too long.
_NO_DRAFT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
# Replacing the file is impossible: it is a mount point, for example, or the folder is sticky.
_NO_RENAME = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.ETXTBSY)


class UnwritableFileError(CheckpointError, OSError):
    """Writing a file failed; the message names it and the reason."""


@contextmanager
def atomic_write(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """Write a file under another name beside its own, and rename it when it is complete and on the disk.

    An existing file is replaced only if that is safe: a regular file of this user with one hard link. The new file
    keeps the mode and group of the old one, and a symbolic link still points at it. Devices, pipes, ``/dev/stdout``,
    files of other users, files with several hard links, and files that a rename does not replace (mount points, or in
    a folder that is not writable) are written in place, as ``open`` does. A kill can then leave half of such a file.

    Args:
        path: of the file; its folder is made.

    Yields:
        The path to write to.

    Raises:
        UnwritableFileError: if writing fails, on a full disk or a read-only folder.
    """
    path = Path(path)
    draft, lock, in_place = None, None, False
    try:
        target = _replaceable(path)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft, lock = _make_draft(target)
        in_place = draft is None
        yield draft or path
        _sync(draft or path)
        if draft is not None and not _renamed(draft, target):
            in_place = True
            shutil.copyfile(draft, target)
            _sync(target)
    except OSError as error:
        kept = ('it may be incomplete' if in_place else
                'the file of that name is as it was' if path.is_file() else 'nothing is left of it')
        raise _unwritable(path, error, kept) from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)
            os.close(lock)


def _replaceable(path: Path) -> Optional[Path]:
    """Return the regular file of ours, or the free name, at ``path``; None if it must be written in place."""
    for _ in range(40):  # as many links as Linux follows
        folder = os.path.realpath(path.parent)
        if folder.startswith(('/proc/', '/dev/fd')):  # an open file of a process, such as /dev/stdout
            return None
        path = Path(folder, path.name)
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    try:
        status = path.lstat()
    except FileNotFoundError:
        return path
    user = os.geteuid() if hasattr(os, 'geteuid') else status.st_uid
    ours = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == user
    return path if ours and os.access(path, os.W_OK) and not _has_attributes(path) else None


def _has_attributes(path: Path) -> bool:
    """Return whether a file has an access list or extended attributes, which replacing it would lose."""
    try:
        return any(not name.startswith('security.') for name in os.listxattr(path))
    except (AttributeError, OSError):  # not Linux, or a file system without them
        return False


def _make_draft(target: Path) -> Tuple[Optional[Path], Optional[int]]:
    """Create a file beside the target and a descriptor that locks it while this process lives; None if impossible.
    """
    draft = target.with_name(f'.{target.name}.{secrets.token_hex(4)}.tmp')
    try:
        lock = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        if error.errno in _NO_DRAFT:
            return None, None
        raise
    _lock(lock)
    return draft, lock


def _lock(descriptor: int) -> bool:
    """Lock a file until it is closed; return whether no other process held the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (AttributeError, OSError):  # no Unix, another process, or a file system without locks
        return False
    return True


def _renamed(draft: Path, target: Path) -> bool:
    """Give the draft the old file's mode, group and name; return whether the system allows it."""
    try:
        if target.exists():
            old = target.stat()
            if draft.stat().st_gid != old.st_gid:
                os.chown(draft, -1, old.st_gid)
            os.chmod(draft, stat.S_IMODE(old.st_mode))
        os.replace(draft, target)
    except OSError as error:
        if error.errno not in _NO_RENAME:
            raise
        return False
    return True


def _sync(path: Path) -> None:
    """Wait until a regular file is on the disk."""
    if path.is_file():
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(path: Path, error: OSError, kept: str = '') -> UnwritableFileError:
    told = UnwritableFileError(f'cannot write {path} ({error.strerror or error})' + (f'; {kept}' if kept else ''))
    told.errno = error.errno
    return told


def remove_drafts(folder: Union[str, os.PathLike], is_ours: Callable[[str], bool]) -> List[str]:
    """Remove the drafts that killed processes have left in a folder.

    Args:
        folder: to search, not its subfolders.
        is_ours: whether a draft for a file of this name belongs to the caller.

    Returns:
        The names of the removed drafts. A draft that a living process writes to stays.
    """
    removed = []
    for path in sorted(Path(folder).glob('.*.tmp')):
        match = _DRAFT.fullmatch(path.name)
        if match is None or not is_ours(match[1]) or path.is_symlink() or not path.is_file():
            continue
        try:
            lock = os.open(path, os.O_WRONLY)
        except OSError:
            continue
        try:
            if _lock(lock):
                path.unlink(missing_ok=True)
                removed.append(path.name)
        finally:
            os.close(lock)
    return removed


def write_json(content: Any, path: Union[str, os.PathLike], indent: Optional[int] = None,
               allow_nan: bool = True) -> None:
    """Write a JSON file; see :func:`atomic_write`.

    Args:
        content: anything JSON can hold.
        path: of the file; its folder is made.
        indent: of its lines. Default: all in one line.
        allow_nan: whether infinity and NaN are written, which Python reads and others may not.

    Raises:
        CheckpointError: if writing fails.
        ValueError: for infinity or NaN that is not allowed.
    """
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=indent, allow_nan=allow_nan) + '\n', encoding='utf-8')


def check_writable(path: Union[str, os.PathLike]) -> None:
    """Check before long work that its result can be written; the folder is made.

    Args:
        path: of the file. An existing one stays unchanged.

    Raises:
        UnwritableFileError: if it is not writable.
    """
    path = Path(path)
    draft = None
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target = _replaceable(path)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft, lock = _make_draft(target)
        if draft is not None:
            draft.unlink()
            os.close(lock)
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from error


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for local files, through which it writes checkpoints, with atomic writing.

    MMEngine's own opens a checkpoint and writes into it: a run that is killed in that moment, or finds the disk full,
    leaves half a file under the name that ``--resume`` will look for.
    """

    def put(self, obj: bytes, filepath: Union[str, os.PathLike]) -> None:
        """Write bytes; see :func:`atomic_write`."""
        with atomic_write(filepath) as draft:
            draft.write_bytes(obj)

    def put_text(self, obj: str, filepath: Union[str, os.PathLike], encoding: str = 'utf-8') -> None:
        """Write text; see :func:`atomic_write`."""
        with atomic_write(filepath) as draft:
            draft.write_text(obj, encoding=encoding)
