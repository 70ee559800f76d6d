"""Reading checkpoint files: detection by content, and errors that say what is wrong."""
from __future__ import annotations

import json
import os
import os.path as osp
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from ..errors import MissingFileError, SettingError, UserError
from .archive import DamagedArchiveError, check_archive, is_archive, is_tar, opened, size_of
from .pickle_names import Refused, restore_functions
from .safe_pickle import LEGACY_MAGIC, MapLocation, Source, load_pickle, torch_load
from .weights import ABSOLUTE_GRID, POSITION, TABLE_WINDOWS, check_metadata

_DEPTH = 4  # of nested dicts that are searched


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is unusable; the message names the file and says what is wrong with it."""


class MissingCheckpointError(CheckpointError, MissingFileError):
    """A checkpoint does not exist."""


def _reject_by_content(source: Source, name: str) -> None:
    """Raise :class:`CheckpointError` for files that are not checkpoints by their first bytes."""
    with opened(source) as stream:
        head = stream.read(256)
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if not head:
        raise CheckpointError(f'checkpoint {name} is empty (0 bytes): copy or download it again')
    if text.startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
        raise CheckpointError(f'checkpoint {name} is a web page (HTML), not a checkpoint: the download most likely '
                              'answered with an error or log-in page. Delete it and download it again')
    if text.startswith(b'version https://git-lfs'):
        raise CheckpointError(f'checkpoint {name} is a Git LFS pointer, not the file itself: run "git lfs pull"')
    if is_tar(source):
        raise CheckpointError(f'{name} is a tar archive, not a checkpoint: unpack it')


def _read_pickle(source: Source, name: str, map_location: MapLocation, mmap: bool) -> Any:
    """Read a file of torch's, or a plain pickle such as detectron2's."""
    try:
        if is_archive(source):
            return torch_load(source, map_location, check_archive(source, whole=not mmap), mmap=mmap)
        with opened(source) as stream:
            if stream.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
                return torch_load(source, map_location, size_of(source))
            stream.seek(0)
            return _with_tensors(load_pickle(stream))
    except DamagedArchiveError as error:
        raise CheckpointError(f'checkpoint {name} {error}') from error
    except Refused as error:
        raise CheckpointError(
            f'checkpoint {name} asks for {error}, which could run code or do harm and is not needed to read weights: '
            'refused, nothing was loaded. If you made the file yourself, save it again with tensors, numbers, '
            'strings, lists and dicts only') from error
    except Exception as error:  # anything that torch and pickle raise for damage
        if isinstance(error, (pickle.UnpicklingError, EOFError)) or not is_archive(source):
            raise CheckpointError(f'{name} is not a PyTorch checkpoint, or is damaged (reading it ended in '
                                  f'{type(error).__name__})') from error
        detail = (str(error).strip() or 'no details').splitlines()[0]
        raise CheckpointError(f'cannot read checkpoint {name} ({type(error).__name__}: {detail})') from error


def _with_tensors(checkpoint: Any) -> Any:
    """Make tensors of the NumPy arrays in a plain pickle: of a state dict, or of the entry ``model``."""
    if not isinstance(checkpoint, dict):
        return checkpoint
    inner = checkpoint.get('model')
    target = inner if isinstance(inner, dict) else checkpoint
    for key, value in target.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc':
            target[key] = torch.from_numpy(value.astype(value.dtype.newbyteorder('='), copy=False))
    return checkpoint


def _check_content(checkpoint: Any, name: str) -> None:
    """Check that a file holds a dict with tensors in a layout that later steps can read."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{name} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dict with '
                              'a state dict')
    for part in ('state_dict', 'ema_state_dict'):
        if not isinstance(checkpoint.get(part, {}), dict):
            raise CheckpointError(f'checkpoint {name} has no weights: its {part!r} is a '
                                  f'{type(checkpoint[part]).__name__}, not a dict')
    seen: dict[int, dict] = {}
    level: list[dict] = [checkpoint]
    found = False
    for _ in range(_DEPTH):
        seen.update((id(content), content) for content in level)
        below = [value for content in level for value in content.values()]
        found = found or any(isinstance(value, torch.Tensor) for value in below)
        level = list({id(value): value for value in below if isinstance(value, dict) and id(value) not in seen}
                     .values())
    if not found:
        raise CheckpointError(f'{name} is not a checkpoint: its dict (keys {list(checkpoint)[:5]!r:.200}) holds no '
                              'tensor')
    try:
        for content in seen.values():
            check_metadata(content)
    except SettingError as error:
        raise CheckpointError(f'checkpoint {name} is damaged or not of this project: {error}') from error


def _is_safetensors(source: Source) -> bool:
    """Return whether a file starts as safetensors does: with the length of a JSON header, then the header."""
    with opened(source) as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 2**27


def _load_safetensors(source: Source, name: str) -> dict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load, load_file
    except ImportError as error:
        raise CheckpointError(f'checkpoint {name} is a safetensors file: pip install safetensors') from error
    try:
        tensors = OrderedDict(load_file(source) if isinstance(source, str) else load(source.getvalue()))
    except SafetensorError as error:
        raise CheckpointError(f'checkpoint {name} is a safetensors file, but truncated or damaged ({error}): copy or '
                              'download it again') from error
    with opened(source) as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), 'little')))
    written, noted = header.get('__metadata__', {}), {}
    for note in (TABLE_WINDOWS, ABSOLUTE_GRID, POSITION):
        try:
            noted.update({note: json.loads(written[note])} if note in written else {})
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f'checkpoint {name} is damaged or not of this project: its note {note!r} is no JSON, '
                                  f'but {written[note]!r:.60}') from error
    if noted:
        tensors._metadata = OrderedDict({'': noted})
    return tensors


def load_source(source: Source, name: str, map_location: MapLocation, mmap: bool = False) -> dict:
    """Load a checkpoint for all loaders. ``source`` is a path or an ``io.BytesIO``; ``name`` is for messages."""
    _reject_by_content(source, name)
    is_safetensors = _is_safetensors(source)
    checkpoint = _load_safetensors(source, name) if is_safetensors else _read_pickle(source, name, map_location, mmap)
    _check_content(checkpoint, name)
    restore_functions(checkpoint)
    return checkpoint


def load_checkpoint_file(path: str | os.PathLike, map_location: MapLocation = None, mmap: bool = False) -> dict:
    """Load a checkpoint from a local file without calling anything that it names.

    Args:
        path: The file; ``~`` is expanded.
        map_location: As in :func:`torch.load`.
        mmap: Leave tensors on disk until they are used, so that looking at a large file costs little memory.
            Ignored for the file format from before torch 1.6.

    Returns:
        The checkpoint's dict, as it was saved.

    Raises:
        CheckpointError: if the file is missing (then a ``FileNotFoundError`` too), a directory, empty, truncated,
            damaged, a web page, no checkpoint, or asks for anything but tensors, plain values, NumPy arrays, settings
            and MMEngine's ``HistoryBuffer``. Nothing that the file asks for has been called then.
    """
    path = osp.expanduser(os.fspath(path))
    if osp.isdir(path):
        raise CheckpointError(f'checkpoint {path} is a directory; name the .pth file in it')
    if not osp.isfile(path):
        raise MissingCheckpointError(f'checkpoint {path} does not exist (current directory: {os.getcwd()})')
    return load_source(path, path, map_location, mmap=mmap)
