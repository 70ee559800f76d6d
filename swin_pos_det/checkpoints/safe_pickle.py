"""Unpickling checkpoints without running code that they carry.

A ``.pth`` file is a pickle, and a pickle can call any function it names. torch >= 2.6 guards against that with
``weights_only=True``, which is both too strict and too lax here: it rejects classes in MMEngine's own
checkpoints (``HistoryBuffer``, NumPy values), and the functions that it calls, by default or once those are allowed,
let a file set attributes of classes and corrupt memory.

So one unpickler, the same for every torch, knows a short list of names. No name gives the object itself: it gives a
:class:`Global`, which can only be called, and which checks its arguments and builds tensors, plain arrays and plain
values alone. State is set on five types, each checked; everything else is refused.
"""
from __future__ import annotations

import io
import os
import pickle
import types
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from typing import Any, BinaryIO, Callable, Mapping, Union

import torch

from .pickle_names import NAMES as PLAIN_NAMES
from .pickle_names import Global, Refused, set_state

MapLocation = Union[str, torch.device, Callable, dict, None]
Source = Union[str, io.BytesIO]

# The start of a file of torch.save before 1.6: protocol 2, and its magic number as the first of several pickles.
LEGACY_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'


def _storage_of_bytes(data: Any) -> Any:
    """Read a storage that a plain ``pickle.dump`` of a tensor wrote, as a torch file within the pickle."""
    if not isinstance(data, bytes) or not data.startswith(LEGACY_MAGIC):  # in a zip, torch would look for TorchScript
        raise Refused('torch.storage._load_from_bytes of something else than a storage')
    storage = torch_load(io.BytesIO(data), 'cpu', len(data), names=PLAIN_NAMES)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise Refused('torch.storage._load_from_bytes of something else than a storage')
    return storage


NAMES = {**PLAIN_NAMES, 'torch.storage._load_from_bytes': Global('torch.storage._load_from_bytes', _storage_of_bytes)}


def _python3_name(module: str, name: str) -> str:
    """Return ``module.name`` with Python 2 names, which pickle protocol 2 writes, replaced."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f'{module}.{name}'


class Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, which builds only :data:`NAMES`, with the dangerous opcodes replaced.

    Python's unpickler in C is unsuitable: it sets state on classes and functions too.
    """

    names: Mapping[str, Any] = NAMES
    max_bytes: Mapping[str, int] | int = 0  # that a storage can have: by its key, or the same for all

    def find_class(self, module: str, name: str) -> Any:
        path = _python3_name(module, name)
        if path not in self.names:
            raise Refused(path)
        return self.names[path]

    def load_reduce(self) -> None:
        """Call a function, or make an object of a class, which is the same here."""
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
            raise Refused(f'a call of {function!r}'[:200])
        self.stack[-1] = function.call(*arguments)

    def load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        set_state(instance, state)

    def _target(self, *kinds: type) -> Any:
        """Return the container that items are put into."""
        if type(self.stack[-1]) not in kinds:
            raise Refused(f'items of a {type(self.stack[-1]).__name__}')
        return self.stack[-1]

    def load_append(self) -> None:
        item = self.stack.pop()
        self._target(list).append(item)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._target(list).extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target(dict, OrderedDict, Counter)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        target = self._target(dict, OrderedDict, Counter)
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._target(set).update(items)

    def load_binpersid(self) -> None:
        name = self.stack.pop()
        if not isinstance(name, tuple) or len(name) not in (5, 6) or name[0] not in ('storage', b'storage'):
            raise Refused(f'a persistent object {name!r}'[:200])
        _, kind, key, _, numel = name[:5]
        dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, 'dtype', None)
        if not isinstance(dtype, torch.dtype) or type(numel) is not int or numel < 0:
            raise Refused(f'a persistent object {name!r}'[:200])
        held = self.max_bytes if isinstance(self.max_bytes, int) else self.max_bytes.get(str(key), 0)
        if numel * torch.empty(0, dtype=dtype).element_size() > held:
            raise Refused(f'a storage of {numel} numbers from {held} bytes')
        self.append(self.persistent_load(name))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError('an opcode that no library writes')

    dispatch = {**pickle._Unpickler.dispatch, **dict.fromkeys(
        [code[0] for code in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.EXT1, pickle.EXT2,
                              pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)], _refuse)}
    dispatch.update({pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_reduce, pickle.BUILD[0]: load_build,
                     pickle.APPEND[0]: load_append, pickle.APPENDS[0]: load_appends, pickle.SETITEM[0]: load_setitem,
                     pickle.SETITEMS[0]: load_setitems, pickle.ADDITEMS[0]: load_additems,
                     pickle.BINPERSID[0]: load_binpersid})


def torch_load(source: Source, map_location: MapLocation, max_bytes: Mapping[str, int] | int, mmap: bool = False,
               names: Mapping[str, Any] = NAMES) -> Any:
    """Call ``torch.load`` with :class:`Unpickler`.

    Args:
        source: a path or an ``io.BytesIO``; not a TorchScript archive or tar file, see :mod:`.archive`.
        map_location, mmap: as in :func:`torch.load`.
        max_bytes: that a storage can have, by its key in a zip; else the file's size.
        names: that the pickle may use.

    Raises:
        Refused: for an unknown name, which it states. For damage, errors of ``pickle`` and torch.
    """
    own = type('CheckpointUnpickler', (Unpickler, ), dict(names=names, max_bytes=max_bytes))
    module = types.SimpleNamespace(__name__='restricted_pickle', Unpickler=own,
                                   load=lambda file, **kwargs: own(file, **kwargs).load())
    # The variable would replace the stricter unpickler by torch's.
    forced = os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    try:
        return torch.load(source, map_location=map_location, weights_only=False, pickle_module=module,
                          **dict(mmap=True) if mmap else {})
    finally:
        if forced is not None:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = forced


def load_pickle(stream: BinaryIO) -> Any:
    """Read a plain pickle, as detectron2's checkpoints are; text of Python 2 becomes ``str``."""
    return Unpickler(stream, encoding='latin1').load()
