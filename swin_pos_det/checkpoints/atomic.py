"""Files that are written whole or not at all."""
from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional, Union

from mmengine.fileio import LocalBackend

from .io import CheckpointError


@contextmanager
def replacing(path: Union[str, os.PathLike]) -> Iterator[Path]:
    """Write a file under another name beside its own, and give it its name when it is complete and on the disk.

    Args:
        path: of the file; its folder is made.

    Yields:
        The path to write to.

    Raises:
        CheckpointError: if it cannot be written, for a full disk or a read-only folder. What was there before stays.
    """
    path = Path(os.path.realpath(path))  # a link goes on pointing at its file
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
        os.close(handle)
        draft = Path(name)
        yield draft
        with draft.open('rb+') as written:
            os.fsync(written.fileno())
        os.chmod(draft, 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(draft, path)
    except OSError as error:
        kept = 'the file of that name is as it was' if path.is_file() else 'nothing is left of it'
        raise CheckpointError(f'{path} cannot be written ({error.strerror or error}); {kept}') from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def write_json(content: Any, path: Union[str, os.PathLike], indent: Optional[int] = None,
               allow_nan: bool = True) -> None:
    """Write a JSON file; see :func:`replacing`.

    Args:
        content: anything JSON can hold.
        path: of the file; its folder is made.
        indent: of its lines. Default: all in one line.
        allow_nan: whether infinity and NaN are written, which Python reads and others may not.

    Raises:
        CheckpointError: if it cannot be written.
        ValueError: for infinity or NaN that is not allowed.
    """
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=indent, allow_nan=allow_nan) + '\n', encoding='utf-8')


def check_writable(path: Union[str, os.PathLike]) -> None:
    """Looks before long work whether its result can be written; the folder is made.

    Args:
        path: of the file. One that is there stays as it is.

    Raises:
        CheckpointError: if it cannot.
    """
    path = Path(os.path.realpath(path))
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp'):
            pass
    except OSError as error:
        raise CheckpointError(f'{path} cannot be written ({error.strerror or error})') from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for local files, which its checkpoints are written through.

    MMEngine's own opens a checkpoint and writes into it: a run that is killed in that moment, or finds the disk full,
    leaves half a file under the name that ``--resume`` will look for.
    """

    def put(self, obj: bytes, filepath: Union[str, os.PathLike]) -> None:
        """Write bytes; see :func:`replacing`."""
        with replacing(filepath) as draft:
            draft.write_bytes(obj)

    def put_text(self, obj: str, filepath: Union[str, os.PathLike], encoding: str = 'utf-8') -> None:
        """Write text; see :func:`replacing`."""
        with replacing(filepath) as draft:
            draft.write_text(obj, encoding=encoding)
