"""Unpickling checkpoints without running code that they carry.

A ``.pth`` file is a pickle, and unpickling calls whatever the file names. torch >= 2.6 guards against that with
``weights_only=True``, but MMEngine's own checkpoints hold a few harmless classes which that protection does not
know (``HistoryBuffer``, NumPy scalars): MMEngine 0.10.7 then cannot resume its own runs, and other versions switch
the protection off. Here the protection stays on, and exactly those classes are allowed, with the two in which other
libraries' trainings note their settings.
"""
from __future__ import annotations

import argparse
import io
import os
import pickle
import pickletools
import types
import zipfile
from _codecs import encode
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from typing import Any, BinaryIO, Callable, Iterator, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch._weights_only_unpickler import _get_allowed_globals

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

MapLocation = Union[str, torch.device, Callable, dict, None]
Source = Union[str, io.BytesIO]

_HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
# torch.serialization.safe_globals takes (object, name) pairs from 2.6 on; before that we bring our own unpickler.
TORCH_HAS_ALLOW_LIST = digit_version(torch.__version__) >= digit_version('2.6.0')


class Refused(Exception):
    """A pickle asked for something that is not on the allow-lists; the message is its name."""


def _history_buffer_method(owner: Any, name: str) -> Callable:
    """Stands in for ``getattr``, which a pickled ``HistoryBuffer`` asks for to name its four statistics.

    The real ``getattr`` on an allow-list would let a file reach any attribute of any allowed object.
    """
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise Refused(f'getattr({getattr(owner, "__name__", owner)}, {name!r})')
    return getattr(HistoryBuffer, name)


def _allowed_globals() -> dict[str, Any]:
    """What training checkpoints need beyond torch's own list: pickled name -> the object it stands for.

    In ``Namespace`` and ``CfgNode`` timm's, torchvision's and the Swin authors' trainings note their settings; neither
    does anything when it is made or filled. What the newest torch allows by itself is said for older ones, whose list
    is shorter: MMEngine's ``MultiStepLR`` has a ``Counter``.
    """
    allowed = {
        _HISTORY_BUFFER: HistoryBuffer,
        'builtins.getattr': _history_buffer_method,
        'builtins.slice': slice,
        '_codecs.encode': encode,  # how protocol 2 writes bytes
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        'argparse.Namespace': argparse.Namespace,
        'yacs.config.CfgNode': OrderedDict,  # of the mappings that torch fills, the one that may have attributes
        'builtins.bytearray': bytearray,
        'builtins.complex': complex,
        'builtins.set': set,
        'collections.Counter': Counter,
        'torch.device': torch.device,
        'torch._utils._rebuild_parameter_with_state': torch._utils._rebuild_parameter_with_state,
    }
    allowed.update({str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)})
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
        raise Refused(path)


def _restricted_pickle_module() -> types.SimpleNamespace:
    """The part of the ``pickle`` module which ``torch.load(pickle_module=...)`` uses."""

    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return _RestrictedUnpickler(file, **kwargs).load()

    return types.SimpleNamespace(__name__='restricted_pickle', Unpickler=_RestrictedUnpickler, load=load)


def protected_torch_load(source: Source, map_location: MapLocation, mmap: bool = False,
                         use_allow_list: bool = TORCH_HAS_ALLOW_LIST) -> Any:
    """``torch.load`` that resolves allowed names only; raises ``UnpicklingError`` (among others) at any other."""
    HistoryBuffer()  # the first one registers the statistics of all; one that is unpickled relies on them
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


def opened(source: Source) -> BinaryIO:
    """The bytes of a checkpoint, from their start."""
    return open(source, 'rb') if isinstance(source, str) else io.BytesIO(source.getvalue())


def _pickles(source: Source) -> Iterator[BinaryIO]:
    """The pickles of a checkpoint, undecoded: the ``*.pkl`` members of a zip, else the file itself."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name.endswith('.pkl'):
                    yield io.BytesIO(archive.read(name))
        return
    with opened(source) as stream:
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


def refused_globals(source: Source) -> list[str]:
    """Names which the pickles of ``source`` ask for and which are on no allow-list."""
    try:
        found = {name for stream in _pickles(source) for name in _globals_in(stream)}
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # damaged, so nothing that it asks for can be told
        return []
    return sorted(found.difference(_get_allowed_globals(), _allowed_globals()))
