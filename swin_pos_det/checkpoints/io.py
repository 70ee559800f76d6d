"""Reading checkpoints without running code that they carry.

A ``.pth`` file is a pickle, and unpickling calls whatever the file names. torch >= 2.6 guards against that with
``weights_only=True``, but MMEngine's own checkpoints hold a few harmless classes which that protection does not
know (``HistoryBuffer``, NumPy scalars): MMEngine 0.10.7 then cannot resume its own runs, and other versions switch
the protection off. Here the protection stays on, and exactly those classes are allowed, with the two in which other
libraries' trainings note their settings.

Importing :mod:`swin_pos_det.checkpoints` registers these loaders for every scheme of MMEngine's ``CheckpointLoader``,
so ``init_cfg``, ``load_from``, ``--resume`` and ``mmdet.apis`` all read through them.
"""
from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import os.path as osp
import pickle
import pickletools
import re
import types
import zipfile
from _codecs import encode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import Any, BinaryIO, Callable, Iterator, Union
from urllib.error import URLError
from urllib.parse import urlparse

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.dist import barrier
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch._weights_only_unpickler import _get_allowed_globals

from .weights import ABSOLUTE_GRID, POSITION, TABLE_WINDOWS, with_state_dict

MapLocation = Union[str, torch.device, Callable, dict, None]

_ZIP_MAGIC = b'PK\x03\x04'
_HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
# torch.serialization.safe_globals takes (object, name) pairs from 2.6 on; before that we bring our own unpickler.
_TORCH_HAS_ALLOW_LIST = digit_version(torch.__version__) >= digit_version('2.6.0')


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names the file and says what is wrong with it."""


class _Refused(Exception):
    """A pickle asked for something that is not on the allow-lists; the message is its name."""


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stands in for ``getattr``, which a pickled ``HistoryBuffer`` asks for to name its four statistics.

    The real ``getattr`` on an allow-list would let a file reach any attribute of any allowed object.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise _Refused(f'getattr({getattr(owner, "__name__", owner)}, {name!r})')
    return getattr(HistoryBuffer, name)


def _allowed_globals() -> dict[str, Any]:
    """What training checkpoints need beyond torch's own list: pickled name -> the object it stands for.

    All but the last two are for MMEngine's. In those, timm's, torchvision's and the Swin authors' trainings note their
    settings; neither does anything when it is made or filled.
    """
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    allowed = {
        _HISTORY_BUFFER: HistoryBuffer,
        'builtins.getattr': _history_buffer_method,
        'builtins.slice': slice,
        '_codecs.encode': encode,  # how protocol 2 writes bytes
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        'argparse.Namespace': argparse.Namespace,
        'yacs.config.CfgNode': OrderedDict,  # of the mappings that torch fills, the one that may have attributes
    }
    for core in ('numpy.core', 'numpy._core'):  # NumPy 1 and 2 write different names for the same functions
        allowed[f'{core}.multiarray._reconstruct'] = multiarray._reconstruct
        allowed[f'{core}.multiarray.scalar'] = multiarray.scalar
    for code in ('?', 'b', 'B', 'h', 'H', 'i', 'I', 'l', 'L', 'q', 'Q', 'e', 'f', 'd', 'U'):
        kind = type(np.dtype(code))
        allowed[f'{kind.__module__}.{kind.__qualname__}'] = kind
    return allowed


def _python3_name(module: str, name: str) -> str:
    """``module.name`` with the Python 2 names, which pickle protocol 2 writes, replaced."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f'{module}.{name}'


class _RestrictedUnpickler(pickle.Unpickler):
    """Resolves names from the two allow-lists alone (for torch < 2.6)."""

    def find_class(self, module: str, name: str) -> Any:
        path = _python3_name(module, name)
        for allowed in (_allowed_globals(), _get_allowed_globals()):
            if path in allowed:
                return allowed[path]
        raise _Refused(path)


def _restricted_pickle_module() -> types.SimpleNamespace:
    """The part of the ``pickle`` module which ``torch.load(pickle_module=...)`` uses."""

    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return _RestrictedUnpickler(file, **kwargs).load()

    return types.SimpleNamespace(__name__='restricted_pickle', Unpickler=_RestrictedUnpickler, load=load)


def _protected_torch_load(source: str | io.BytesIO, map_location: MapLocation, mmap: bool = False,
                          use_allow_list: bool = _TORCH_HAS_ALLOW_LIST) -> Any:
    """``torch.load`` that resolves allowed names only; raises ``UnpicklingError`` (among others) at any other."""
    statistics = dict(HistoryBuffer._statistics_methods)  # unpickling a HistoryBuffer writes into this class attribute
    kwargs: dict[str, Any] = dict(map_location=map_location)
    if mmap:
        kwargs['mmap'] = True
    try:
        if not use_allow_list:
            return torch.load(source, weights_only=False, pickle_module=_restricted_pickle_module(), **kwargs)
        pairs = [(value, name) for name, value in _allowed_globals().items()]
        with torch.serialization.safe_globals(pairs):
            return torch.load(source, weights_only=True, **kwargs)
    finally:
        HistoryBuffer._statistics_methods.clear()
        HistoryBuffer._statistics_methods.update(statistics)


def _pickles(source: str | io.BytesIO) -> Iterator[BinaryIO]:
    """The pickles of a checkpoint, undecoded: the ``*.pkl`` members of a zip, else the file itself."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name.endswith('.pkl'):
                    yield io.BytesIO(archive.read(name))
        return
    with open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue()) as stream:
        yield stream


def _globals_in(stream: BinaryIO) -> Iterator[str]:
    """Names that the pickles in ``stream``, one after the other, ask for; found without unpickling anything."""
    try:
        while stream.read(1):
            stream.seek(-1, os.SEEK_CUR)
            strings: list[str] = []
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ('GLOBAL', 'INST'):
                    yield _python3_name(*argument.split(' ', 1))
                elif opcode.name == 'STACK_GLOBAL':
                    yield _python3_name(*strings[-2:])
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # raw tensor data, or a damaged pickle: what came before is all there is to tell
        return


def _refused_globals(source: str | io.BytesIO) -> list[str]:
    """Names which the pickles of ``source`` ask for and which are on no allow-list."""
    try:
        found = {name for stream in _pickles(source) for name in _globals_in(stream)}
    except zipfile.BadZipFile:  # damaged, so nothing that it asks for can be told
        return []
    return sorted(found.difference(_get_allowed_globals(), _allowed_globals()))


def _reject_by_content(source: str | io.BytesIO, name: str) -> None:
    """Recognises, from the first bytes, files that cannot be checkpoints; raises :class:`CheckpointError`."""
    with open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue()) as stream:
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
        if not zipfile.is_zipfile(source):
            raise CheckpointError(f'checkpoint {name} is truncated: its end is missing, as after a download or a save '
                                  'that was interrupted. Copy or download it again, or use an earlier checkpoint')
        try:
            with zipfile.ZipFile(source) as archive:
                members = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter: of an impossible version or method
            raise CheckpointError(f'checkpoint {name} is damaged ({error}): copy or download it again') from error
        if any(member.endswith('/constants.pkl') for member in members):
            raise CheckpointError(f'checkpoint {name} is a TorchScript archive; a checkpoint with a state dict '
                                      'is needed')


def _explain(error: Exception, source: str | io.BytesIO, name: str) -> CheckpointError:
    """The error to raise for one that ``torch.load`` raised."""
    refused = []
    if isinstance(error, (_Refused, pickle.UnpicklingError)):
        refused = _refused_globals(source) or [str(error)] * isinstance(error, _Refused)
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


def _is_safetensors(source: str | io.BytesIO) -> bool:
    """Whether a file starts as safetensors does: the length of a JSON header, and then that."""
    with open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue()) as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b'{' and int.from_bytes(head[:8], 'little') < 2**27


def _load_safetensors(source: str | io.BytesIO, name: str) -> dict:
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
    with open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue()) as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), 'little')))
    written = header.get('__metadata__', {})
    noted = {name: json.loads(written[name]) for name in (TABLE_WINDOWS, ABSOLUTE_GRID, POSITION) if name in written}
    if noted:
        tensors._metadata = OrderedDict({'': noted})
    return tensors


def _load(source: str | io.BytesIO, name: str, map_location: MapLocation, mmap: bool = False) -> dict:
    """Shared end of all loaders. ``source`` is a path or an ``io.BytesIO``; ``name`` is for messages."""
    _reject_by_content(source, name)
    if _is_safetensors(source):
        return _load_safetensors(source, name)
    try:
        checkpoint = _protected_torch_load(source, map_location, mmap=mmap and zipfile.is_zipfile(source))
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
    return _load(path, path, map_location, mmap=mmap)


# MMEngine prints a loader's name from its 11th letter on ("Loads checkpoint by local backend"), hence these names.
def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    """Loads a local file; see :func:`load_checkpoint_file`."""
    return load_checkpoint_file(filename, map_location)


def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    """Downloads a URL once per machine into torch hub's checkpoint folder, and loads it from there.

    Raises:
        CheckpointError: The download failed, or :func:`load_checkpoint_file` refuses the file.
    """
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    path = osp.join(folder, _cached_name(filename))
    try:
        if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not osp.exists(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(filename, path, progress=os.isatty(2))
    except (URLError, OSError) as error:
        raise CheckpointError(f'checkpoint {filename} cannot be downloaded ({error})') from error
    finally:
        barrier()  # the other processes of this machine wait for the file, and are let go when it does not come
    return load_checkpoint_file(path, map_location)


def _cached_name(url: str) -> str:
    """The file name for a URL: its own if that holds a hash, as PyTorch's do, else with one of the URL.

    On Hugging Face every model is called ``model.safetensors``.
    """
    stem, suffix = osp.splitext(osp.basename(urlparse(url).path))
    if re.search(r'-[0-9a-f]{8,}$', stem):
        return stem + suffix
    return f'{stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{suffix}'


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    """Loads ``torchvision://name`` (``modelzoo://`` is its old spelling)."""
    urls = mmengine_checkpoint.get_torchvision_models()
    return load_from_http(_look_up(urls, filename), map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    """Loads ``open-mmlab://name`` from the URL, or the file under MMENGINE_HOME, that MMEngine's list gives."""
    names = mmengine_checkpoint.get_deprecated_model_names()
    name = filename.split('://', 1)[1]
    target = _look_up(mmengine_checkpoint.get_external_models(), f'open-mmlab://{names.get(name, name)}')
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    return load_checkpoint_file(osp.join(mmengine_checkpoint._get_mmengine_home(), target), map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> dict:
    """Loads ``mmcls://name`` and keeps the backbone's weights, as MMEngine does."""
    url = _look_up(mmengine_checkpoint.get_mmcls_models(), filename)
    return mmengine_checkpoint._process_mmcls_checkpoint(load_from_http(url, map_location))


def load_from_ceph(filename: str, map_location: MapLocation = None) -> dict:
    """Loads an ``s3://`` or ``petrel://`` object through MMEngine's petrel file backend."""
    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    return _load(io.BytesIO(backend.get(filename)), filename, map_location)


def load_from_pavi(filename: str, map_location: MapLocation = None) -> dict:
    """Refuses ``pavi://``: that service is not public, and MMEngine's loader for it unpickles without protection."""
    raise CheckpointError(f'checkpoint {filename} cannot be loaded: pavi:// is not supported; use a local file')


def _look_up(urls: dict[str, str], filename: str) -> str:
    name = filename.split('://', 1)[1]
    if name not in urls:
        raise CheckpointError(f'checkpoint {filename} is unknown: the list has no model named {name!r}')
    return urls[name]


def _for_mmengine(loader: Callable) -> Callable:
    """The loader, with files laid out as MMEngine expects them; see :func:`.weights.with_state_dict`."""

    @functools.wraps(loader)
    def load(filename: str, map_location: MapLocation = None) -> dict:
        return with_state_dict(loader(filename, map_location))

    return load


def register_safe_loaders() -> None:
    """Makes MMEngine's ``CheckpointLoader`` read every scheme through this module. Calling it again is harmless."""
    schemes = {
        load_from_local: '',
        load_from_http: ('http://', 'https://'),
        load_from_torchvision: ('modelzoo://', 'torchvision://'),
        load_from_openmmlab: ('open-mmlab://', 'openmmlab://'),
        load_from_mmcls: 'mmcls://',
        load_from_ceph: (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'),
        load_from_pavi: 'pavi://',
    }
    for loader, prefixes in schemes.items():
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=_for_mmengine(loader), force=True)
