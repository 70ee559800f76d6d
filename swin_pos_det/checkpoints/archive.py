"""The container of a checkpoint: a valid zip, as ``torch.save`` writes it."""
from __future__ import annotations

import contextlib
import io
import mmap
import os
import tarfile
import zipfile
import zlib
from typing import BinaryIO, Iterator

import torch

from .safe_pickle import Source

_ZIP_MAGIC = b'PK\x03\x04'
_LOCAL_HEADER = 30  # bytes, before a member's name and extra field
# torch.save compresses nothing; limit for a file that was compressed later.
MAX_GROWTH = 16


class DamagedArchiveError(Exception):
    """A file is not a zip that torch could have written; the message says why."""


def opened(source: Source) -> BinaryIO:
    """Return the bytes of a checkpoint, from their start."""
    return open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue())


def size_of(source: Source) -> int:
    """Return the size of a checkpoint in bytes."""
    return os.path.getsize(source) if isinstance(source, str) else source.getbuffer().nbytes


def is_archive(source: Source) -> bool:
    """Return whether a file starts as a zip does."""
    with opened(source) as stream:
        return stream.read(4) == _ZIP_MAGIC


def is_tar(source: Source) -> bool:
    """Return whether a file is an uncompressed tar archive, which torch would unpack to the disk."""
    with opened(source) as stream, contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=stream, mode='r:'):
        return True
    return False


def check_archive(source: Source, whole: bool = True) -> dict[str, int]:
    """Check the members of a zip before torch reads them.

    Args:
        source: a zip, see :func:`is_archive`.
        whole: check the sums (CRC) of all members, if the file has them.

    Returns:
        The bytes of each storage, by its key.

    Raises:
        DamagedArchiveError: if a member is missing, too large or damaged, or if it is a TorchScript archive.
    """
    # For damaged files zipfile also raises NotImplementedError (version or method) and ValueError (names, offsets).
    try:
        if not zipfile.is_zipfile(source):
            raise DamagedArchiveError('is truncated: its end is missing, as after a download or a save that was '
                                      'interrupted. Copy or download it again, or use an earlier checkpoint')
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            grown = sum(member.file_size for member in members)
            if grown > MAX_GROWTH * size_of(source):
                raise DamagedArchiveError(f'claims to hold {grown} bytes, and has {size_of(source)}: it is not used')
            if whole:
                _check_sums(source, archive)
        # By torch's own reader, so that both see the same members.
        reader = torch._C.PyTorchFileReader(source if isinstance(source, str) else opened(source))
        if reader.has_record('constants.pkl'):
            raise DamagedArchiveError('is a TorchScript archive; a checkpoint with a state dict is needed')
    except (zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError, EOFError, zlib.error) as error:
        raise DamagedArchiveError(f'is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__}): '
                                  'copy or download it again') from error
    return {member.filename.split('/data/', 1)[1]: member.file_size for member in members
            if '/data/' in member.filename}


def _check_sums(source: Source, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if not any(member.CRC for member in members):
        return  # written with torch.serialization.set_crc32_options(False)
    with _memory(source) as content:
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                archive.read(member)  # checks it
                continue
            header = member.header_offset
            start = header + _LOCAL_HEADER + sum(
                int.from_bytes(content[header + place:header + place + 2], 'little') for place in (26, 28))
            if zlib.crc32(content[start:start + member.file_size]) != member.CRC:
                raise DamagedArchiveError(f'is damaged: the bytes of {member.filename} in it have changed since they '
                                          'were written. Copy or download it again')


@contextlib.contextmanager
def _memory(source: Source) -> Iterator[memoryview]:
    if not isinstance(source, str):
        yield source.getbuffer()
        return
    with open(source, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        view = memoryview(content)
        try:
            yield view
        finally:
            view.release()
