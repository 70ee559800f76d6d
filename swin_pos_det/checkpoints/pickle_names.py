"""The meaning of the names in a checkpoint's pickle: functions that check their arguments and build plain values.

Setting state is guarded in the same way: five types allow it, and each checks the state.
"""
from __future__ import annotations

import argparse
import math
import re
from collections import Counter, OrderedDict
from typing import Any, Callable, Mapping

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

# Limit of the elements that a pickle may expand a tensor to beyond its stored numbers (strides of 0).
MAX_EXPANDED_BYTES = 2**26
_PLAIN_DTYPE = re.compile(r'[<>=|]?(?:[?bBhHiIlLqQefdgFDG]|[biufc]\d{1,2}|[US]\d{0,6})')
_HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
# Functions that MMEngine writes into checkpoints, as the methods of a class.
_FUNCTIONS = tuple(f'{_HISTORY_BUFFER}.{name}' for name in ('min', 'max', 'current', 'mean')) + tuple(
    f'{_ONE_CYCLE}.{name}' for name in ('_annealing_cos', '_annealing_linear'))


class Refused(Exception):
    """A pickle asked for something that is not needed to read weights; the message says for what."""


class Global:
    """A name in a pickle: ``call`` builds its value, if it has one; it has no other use."""

    def __init__(self, name: str, call: Callable | None = None) -> None:
        self.name, self.call = name, call

    def __repr__(self) -> str:
        return f'<{self.name}>'


# ---- values

def _getattr(owner: Any, name: Any) -> Global:
    """Name a function of a class, as MMEngine's history buffers and one-cycle schedules have them: its name alone."""
    path = f'{owner.name}.{name}' if isinstance(owner, Global) else ''
    if path not in _FUNCTIONS:
        raise Refused(f'getattr({owner!r}, {name!r})')
    return Global(path)


def _bytes(text: Any = b'', encoding: Any = 'latin1') -> bytes:
    if isinstance(text, (bytes, bytearray)):
        return bytes(text)
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise Refused(f'bytes of a {type(text).__name__}')
    return text.encode('latin1')


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """Return a new dtype of numbers or text: setting its state must not change NumPy's."""
    if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
        raise Refused(f'numpy.dtype({code!r})')
    return np.dtype(code, False, True)


def _array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if not isinstance(kind, Global) or kind.name != 'numpy.ndarray':
        raise Refused(f'a NumPy array of type {kind!r}')
    return np.empty(0, np.int8)


def _sized(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    """Return (N,), an array of ``data``, which must have exactly the size of the shape."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.kind not in 'biufcUS' or dtype.itemsize == 0:
        raise Refused(f'a NumPy array of dtype {dtype!r}')
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape) or len(shape) > 32:
        raise Refused(f'a NumPy array of shape {shape!r}'[:200])
    data = _bytes(data)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Refused(f'a NumPy array of shape {shape} and {dtype} from {len(data)} bytes'[:200])
    return np.frombuffer(data, dtype)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _sized(data, dtype, shape).reshape(shape, order='F' if order == 'F' else 'C').copy()


def _scalar(dtype: Any, data: Any = b'') -> np.generic:
    if isinstance(dtype, np.dtype) and dtype.kind in 'US':  # NumPy cuts trailing zeros
        data = _bytes(data).ljust(dtype.itemsize, b'\0')
    return _sized(data, dtype, (1, ))[0]


def _mapping(kind: Callable) -> Callable:
    def build(content: Any = ()) -> Any:
        if not isinstance(content, (dict, list, tuple)):
            raise Refused(f'a mapping of a {type(content).__name__}')
        return kind(content)

    return build


def _counter(content: Any = ()) -> Counter:
    if not isinstance(content, dict) or not all(isinstance(number, int) for number in content.values()):
        raise Refused('a Counter of something else than numbers')
    return Counter(content)


def _collection(kind: Callable) -> Callable:
    def build(content: Any = ()) -> Any:
        if not isinstance(content, (list, tuple)):
            raise Refused(f'a {kind.__name__} of a {type(content).__name__}')
        return kind(content)

    return build


# ---- tensors

def _tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None,
            metadata: Any = None) -> torch.Tensor:
    """Build a tensor on a storage. Hooks are not part of a file; torch writes an empty mapping for them."""
    return _rebuild(storage, offset, size, stride, storage.dtype, requires_grad, metadata)


def _tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
               metadata: Any = None) -> torch.Tensor:
    return _rebuild(storage, offset, size, stride, dtype, requires_grad, metadata)


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype, requires_grad: Any,
             metadata: Any) -> torch.Tensor:
    if metadata and not (isinstance(metadata, dict) and metadata.keys() <= {'conj', 'neg'}):
        raise Refused('metadata of a tensor')
    untyped = _checked_storage(storage, offset, size, stride, dtype)
    tensor = torch.empty(0, dtype=dtype, device=untyped.device).set_(untyped, offset, tuple(size), tuple(stride))
    if metadata and metadata.get('conj'):
        tensor = tensor.conj()
    if metadata and metadata.get('neg'):
        tensor = torch._neg_view(tensor)
    return tensor.requires_grad_(bool(requires_grad))


def _checked_storage(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype) -> torch.UntypedStorage:
    """Return the storage if it holds all of the tensor, and the tensor is not a small one expanded to a huge one."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, torch.storage.TypedStorage) or len(size) != len(stride) \
            or not all(type(number) is int and number >= 0 for number in numbers):
        raise Refused(f'a tensor of shape {size!r}'[:200])
    untyped, bytes_each = storage._untyped_storage, torch.empty(0, dtype=dtype).element_size()
    numel = math.prod(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride))
    if numel and ((last + 1) * bytes_each > untyped.nbytes()
                  or numel * bytes_each > max(untyped.nbytes(), MAX_EXPANDED_BYTES)):
        raise Refused(f'a tensor of shape {tuple(size)} from {untyped.nbytes()} bytes'[:200])
    return untyped


def _quantized(storage: Any, offset: Any, size: Any, stride: Any, quantizer: Any, requires_grad: Any,
               hooks: Any = None) -> torch.Tensor:
    _checked_storage(storage, offset, size, stride, storage.dtype)
    if len(quantizer) == 4:  # per channel; older torch does not check that these fit
        _, scales, zeros, axis = quantizer
        if not 0 <= axis < len(size) or not len(scales) == len(zeros) == size[axis]:
            raise Refused('a quantised tensor with scales of another size')
    return torch._utils._rebuild_qtensor(storage, offset, size, stride, quantizer, False, OrderedDict())


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> torch.nn.Parameter:
    """Build a parameter without the attributes that were set on it."""
    return torch.nn.Parameter(data, bool(requires_grad))


def _of_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> torch.Tensor:
    """Return the plain tensor of an instance of a subclass, without its class and attributes."""
    if not isinstance(function, Global) or not function.name.startswith('torch._utils._rebuild_'):
        raise Refused(f'a tensor made by {function!r}')
    return function.call(*arguments)


def _sparse_tensor(layout: Any, data: Any) -> torch.Tensor:
    if layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(*data[:3], check_invariants=True)
    return torch.sparse_compressed_tensor(*data, layout=layout, check_invariants=True)


def _meta_tensor(dtype: Any, size: Any, stride: Any, requires_grad: Any) -> torch.Tensor:
    return torch.empty_strided(tuple(size), tuple(stride), dtype=dtype, device='meta')


def _layout(name: Any) -> torch.layout:
    return torch.serialization._get_layout(name)


def _names() -> dict[str, Any]:
    """Map each pickled name to a :class:`Global`, or to a value without use."""
    calls: dict[str, Callable | None] = {
        _HISTORY_BUFFER: lambda: HistoryBuffer(),
        _ONE_CYCLE: None,
        **dict.fromkeys(_FUNCTIONS),
        'builtins.getattr': _getattr,
        'builtins.slice': slice,
        'builtins.bytearray': lambda *args: bytearray(_bytes(*args)),
        'builtins.bytes': _bytes,
        'builtins.complex': complex,
        'builtins.set': _collection(set),
        'builtins.frozenset': _collection(frozenset),
        '_codecs.encode': _bytes,  # as protocol 2 writes bytes
        'collections.OrderedDict': _mapping(OrderedDict),
        'collections.Counter': _counter,
        'argparse.Namespace': argparse.Namespace,  # the settings of timm's and torchvision's trainings
        'yacs.config.CfgNode': OrderedDict,  # those of the Swin authors'; of the mappings, the one with attributes
        'mmengine.config.config.ConfigDict': _mapping(dict),
        'numpy.ndarray': None,
        'numpy.dtype': _dtype,
        'torch.Size': _collection(torch.Size),
        'torch.device': torch.device,
        'torch.Tensor': None,
        'torch.nn.parameter.Parameter': _parameter,
        'torch.serialization._get_layout': _layout,
        'torch._tensor._rebuild_from_type_v2': _of_type,
        'torch._utils._rebuild_tensor': _tensor,
        'torch._utils._rebuild_tensor_v2': _tensor,
        'torch._utils._rebuild_tensor_v3': _tensor_v3,
        'torch._utils._rebuild_parameter': _parameter,
        'torch._utils._rebuild_parameter_with_state': _parameter,
        'torch._utils._rebuild_qtensor': _quantized,
        'torch._utils._rebuild_sparse_tensor': _sparse_tensor,
        'torch._utils._rebuild_meta_tensor_no_storage': _meta_tensor,
    }
    for core in ('numpy.core', 'numpy._core'):  # NumPy 1 and 2 write different names for the same functions
        calls[f'{core}.multiarray._reconstruct'] = _array
        calls[f'{core}.multiarray.scalar'] = _scalar
        calls[f'{core}.numeric._frombuffer'] = _frombuffer  # protocol 5
    known: dict[str, Any] = {name: Global(name, call) for name, call in calls.items()}
    known.update({str(value): value for value in vars(torch).values()
                  if isinstance(value, (torch.dtype, torch.qscheme))})
    known['torch.storage.UntypedStorage'] = torch.UntypedStorage
    return known


NAMES = _names()


# ---- states

def _set_attributes(instance: Any, state: Any) -> None:
    """Set attributes, except those that would hide attributes of the class."""
    if not isinstance(state, dict):
        raise Refused(f'a state of {type(state).__name__}')
    vars(instance).update((name, value) for name, value in state.items()
                          if isinstance(name, str) and not hasattr(type(instance), name))


def _set_array(array: np.ndarray, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) not in (4, 5) or array.size:
        raise Refused('a state of a NumPy array')
    shape, dtype, in_columns, data = state[-4:]
    data = _bytes(data)
    _sized(data, dtype, shape)
    array.__setstate__((1, shape, dtype, bool(in_columns), data))


def _set_dtype(dtype: np.dtype, state: Any) -> None:
    """Set the byte order, the only state of a dtype of numbers or text."""
    if not isinstance(state, tuple) or len(state) < 8 or state[1] not in tuple('<>=|') \
            or state[2:5] != (None, None, None) or state[5] not in (-1, dtype.itemsize):
        raise Refused('a state of a NumPy dtype')
    own = dtype.__reduce__()[2]
    dtype.__setstate__((own[0], state[1], *own[2:]))


def _set_history(buffer: HistoryBuffer, state: Any) -> None:
    """Set the numbers; a file must not choose the statistics functions."""
    log, count, longest = (state.get(name) if isinstance(state, dict) else None
                           for name in ('_log_history', '_count_history', 'max_length'))
    if not all(isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in 'biuf'
               for array in (log, count)) or len(log) != len(count) or type(longest) is not int or longest < 1:
        raise Refused('a state of a HistoryBuffer')
    buffer._log_history, buffer._count_history, buffer.max_length = log, count, longest


_STATES: Mapping[type, Callable[[Any, Any], None]] = {
    OrderedDict: _set_attributes,
    argparse.Namespace: _set_attributes,
    np.ndarray: _set_array,
    HistoryBuffer: _set_history,
}


def set_state(instance: Any, state: Any) -> None:
    """Set the state of an object of a pickle, if it is of a type that has one.

    Raises:
        Refused: if its type has none, or the state does not fit the type.
    """
    setter = _set_dtype if isinstance(instance, np.dtype) else _STATES.get(type(instance))
    if setter is None:
        raise Refused(f'a state of a {type(instance).__name__}')
    setter(instance, state)


def restore_functions(checkpoint: Mapping[Any, Any]) -> None:
    """Put the functions of MMEngine's one-cycle schedules, which files store by name."""
    schedules = checkpoint.get('param_schedulers')
    groups = schedules.values() if isinstance(schedules, dict) else [schedules]
    for schedule in (item for group in groups if isinstance(group, list) for item in group):
        function = schedule.get('anneal_func') if isinstance(schedule, dict) else None
        if isinstance(function, Global) and function.name.startswith(_ONE_CYCLE) and function.name in _FUNCTIONS:
            schedule['anneal_func'] = getattr(OneCycleParamScheduler, function.name.rsplit('.', 1)[1])
