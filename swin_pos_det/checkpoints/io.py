"""Checkpoint files: what they are by their content, and what is wrong with them."""
from __future__ import annotations

import json
import os
import os.path as osp
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import torch

from ..errors import UserError
from .safe_pickle import MapLocation, Refused, Source, opened, protected_torch_load, refused_globals
from .weights import ABSOLUTE_GRID, POSITION, TABLE_WINDOWS

_ZIP_MAGIC = b'PK\x03\x04'


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file and says what is wrong with it."""


def _reject_by_content(source: Source, name: str) -> None:
    """Recognises, from the first bytes, files that cannot be checkpoints; raises :class:`CheckpointError`."""
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
    if head.startswith(_ZIP_MAGIC):
        try:
            whole, members = zipfile.is_zipfile(source), []
            if whole:
                with zipfile.ZipFile(source) as archive:
                    members = archive.namelist()
        # NotImplementedError: of an impossible version or method; ValueError: names that are no text
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise CheckpointError(f'checkpoint {name} is damaged ({error}): copy or download it again') from error
        if not whole:
            raise CheckpointError(f'checkpoint {name} is truncated: its end is missing, as after a download or a save '
                                  'that was interrupted. Copy or download it again, or use an earlier checkpoint')
        if any(member.endswith('/constants.pkl') for member in members):
            raise CheckpointError(f'checkpoint {name} is a TorchScript archive; a checkpoint with a state dict '
                                      'is needed')


def _explain(error: Exception, source: Source, name: str) -> CheckpointError:
    """The error to raise for one that ``torch.load`` raised."""
    refused = []
    if isinstance(error, (Refused, pickle.UnpicklingError)):
        refused = refused_globals(source) or [str(error)] * isinstance(error, Refused)
    if refused:
        return CheckpointError(
            f'checkpoint {name} asks to call {", ".join(refused)}, which could run code and is not needed to read '
            'weights: refused, nothing was loaded. If you made the file yourself, save it again with tensors, '
            'numbers, strings, lists and dicts only')
    if isinstance(error, (pickle.UnpicklingError, EOFError)) or not zipfile.is_zipfile(source):
        # torch's own words here advise to switch the protection off.
        return CheckpointError(f'{name} is not a PyTorch checkpoint, or is damaged (reading it ended in '
                               f'{type(error).__name__})')
    detail = (str(error).strip() or 'no details').splitlines()[0]
    return CheckpointError(f'checkpoint {name} cannot be read ({type(error).__name__}: {detail})')


def _has_tensor(value: Any, depth: int = 3) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    return isinstance(value, dict) and depth > 0 and any(_has_tensor(item, depth - 1) for item in value.values())


def _is_safetensors(source: Source) -> bool:
    """Whether a file starts as safetensors does: the length of a JSON header, and then that."""
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
    written = header.get('__metadata__', {})
    noted = {name: json.loads(written[name]) for name in (TABLE_WINDOWS, ABSOLUTE_GRID, POSITION) if name in written}
    if noted:
        tensors._metadata = OrderedDict({'': noted})
    return tensors


def load_source(source: Source, name: str, map_location: MapLocation, mmap: bool = False) -> dict:
    """Shared end of all loaders. ``source`` is a path or an ``io.BytesIO``; ``name`` is for messages."""
    _reject_by_content(source, name)
    if _is_safetensors(source):
        return _load_safetensors(source, name)
    try:
        checkpoint = protected_torch_load(source, map_location, mmap=mmap and zipfile.is_zipfile(source))
    except Exception as error:
        raise _explain(error, source, name) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{name} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dict with '
                              'a state dict')
    if not _has_tensor(checkpoint):
        raise CheckpointError(f'{name} is not a checkpoint: its dict (keys {list(checkpoint)[:5]}) holds no tensor')
    return checkpoint


def load_checkpoint_file(path: str | os.PathLike, map_location: MapLocation = None, mmap: bool = False) -> dict:
    """Loads a checkpoint from a local file with ``weights_only`` protection on.

    Args:
        path: The file; ``~`` is expanded.
        map_location: As in :func:`torch.load`.
        mmap: Leave tensors on disk until they are used, so that looking at a large file costs little memory.
            Ignored for the file format from before torch 1.6.

    Returns:
        The checkpoint's dict, as it was saved.

    Raises:
        CheckpointError: The file is missing, a directory, empty, truncated, a web page, no checkpoint, or its pickle
            asks for anything but tensors, plain values, NumPy arrays, settings and MMEngine's ``HistoryBuffer``.
            Nothing that the file asks for has been called then.
    """
    path = osp.expanduser(os.fspath(path))
    if osp.isdir(path):
        raise CheckpointError(f'checkpoint {path} is a directory; name the .pth file in it')
    if not osp.isfile(path):
        raise CheckpointError(f'checkpoint {path} does not exist (current directory: {os.getcwd()})')
    return load_source(path, path, map_location, mmap=mmap)
