"""Hostile, damaged and odd checkpoint files, each made from one good checkpoint of a small detector.

A :class:`Case` says which loading paths must refuse the file and which must load it; the others may do either, in one
line. Pickles that no library writes are assembled from opcodes.
"""
from __future__ import annotations

import argparse
import copy
import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import types
import zipfile
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Tuple

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

READ = frozenset({'read', 'inspect', 'convert'})
BACKBONE = frozenset({'init_cfg', 'load_state_dict'})
DETECTOR = frozenset({'load_from', 'test', 'infer'})
RESUME = frozenset({'resume', 'resume_ema'})
MODEL = BACKBONE | DETECTOR | RESUME
ALL = READ | MODEL


@dataclass(frozen=True)
class Case:
    """A file, the paths that must refuse it in one line, and those that must load it."""

    path: Path
    refused_by: FrozenSet[str] = ALL
    loaded_by: FrozenSet[str] = frozenset()


class Files:
    """Writes the files into a folder."""

    def __init__(self, folder: Path, good: Dict[str, Any], backbone: str) -> None:
        self.folder, self.good, self.backbone = folder, good, backbone
        self.cases: Dict[str, Case] = {}
        self.marker, self.victim = folder / 'ran', folder / 'victim'
        self.victim.mkdir()
        (self.victim / 'kept').touch()
        self.content = self.bytes_of(good)

    @staticmethod
    def bytes_of(checkpoint: Any, **kwargs: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(checkpoint, stream, **kwargs)
        return stream.getvalue()

    def add(self, name: str, content: bytes, refused_by: FrozenSet[str] = ALL,
            loaded_by: FrozenSet[str] = frozenset(), suffix: str = '.pth') -> None:
        path = self.folder / (re.sub(r'[^\w.]+', '_', name, flags=re.ASCII) + suffix)
        path.write_bytes(content)
        self.cases[name] = Case(path, refused_by, loaded_by)

    def save(self, name: str, checkpoint: Any, refused_by: FrozenSet[str] = ALL,
             loaded_by: FrozenSet[str] = frozenset(), **kwargs: Any) -> None:
        self.add(name, self.bytes_of(checkpoint, **kwargs), refused_by, loaded_by)

    def changed(self, **parts: Any) -> Dict[str, Any]:
        """Return the good checkpoint with other parts."""
        return dict(self.good, **parts)

    def with_weight(self, key: str, value: Any) -> Dict[str, Any]:
        """Return the good checkpoint with another value of one weight."""
        weights = OrderedDict(self.good['state_dict'], **{key: value})
        weights._metadata = self.good['state_dict']._metadata
        return self.changed(state_dict=weights)

    def with_pickle(self, name: str, code: bytes, refused_by: FrozenSet[str] = ALL,
                    loaded_by: FrozenSet[str] = frozenset()) -> None:
        """Write the good checkpoint with one more pickle entry: the value that ``code`` leaves on the stack."""
        members = members_of(self.content)
        key = next(member for member in members if member.endswith('data.pkl'))
        members[key] = members[key][:-1] + text('extra') + code + b's.'
        self.add(name, zipped(members), refused_by, loaded_by)


def members_of(content: bytes) -> Dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


# ---- opcodes

def name_of(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if abs(value) < 2**31:
        return b'J' + struct.pack('<i', value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(raw)]) + raw


def tuple_of(*items: bytes) -> bytes:
    return b'(' + b''.join(items) + b't'


def call(module: str, name: str, *args: bytes) -> bytes:
    return name_of(module, name) + tuple_of(*args) + b'R'


def dict_of(**items: bytes) -> bytes:
    return b'}(' + b''.join(text(key) + value for key, value in items.items()) + b'u'


def dtype(code: str) -> bytes:
    return call('numpy', 'dtype', text(code), b'\x89', b'\x88')


def raw(data: bytes) -> bytes:
    return call('_codecs', 'encode', text(data.decode('latin1')), text('latin1'))


def array(shape: bytes, kind: bytes, data: bytes) -> bytes:
    made = call('numpy._core.multiarray', '_reconstruct', name_of('numpy', 'ndarray'), tuple_of(number(0)), raw(b'b'))
    return made + tuple_of(number(1), shape, kind, b'\x89', data) + b'b'


def tensor(size: Tuple[int, ...], stride: Tuple[int, ...], offset: int = 0, key: str = '0', numel: int = 1,
           kind: str = 'FloatStorage', hooks: bytes = b'}') -> bytes:
    storage = tuple_of(text('storage'), name_of('torch', kind), text(key), text('cpu'), number(numel)) + b'Q'
    return call('torch._utils', '_rebuild_tensor_v2', storage, number(offset), tuple_of(*map(number, size)),
                tuple_of(*map(number, stride)), b'\x89', hooks)


# ---- the files

def hostile_files(folder: Path, good: Dict[str, Any], backbone: str = 'backbone.') -> Files:
    """Make all files.

    Args:
        folder: to write into; must be empty.
        good: a training checkpoint of a detector, with averaged weights in ``ema_state_dict``.
        backbone: what stands before the backbone's keys.
    """
    files = Files(folder, good, backbone)
    for add in (_that_run_code, _that_set_attributes, _of_bad_arrays, _of_bad_tensors, _of_opcodes, _that_are_damaged,
                _of_other_kinds, _that_exhaust, _of_odd_structure, _of_bad_weights, _of_bad_averages, _of_bad_states,
                _of_safetensors, _that_are_fine):
        add(files)
    return files


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Tuple[Callable, Tuple[Any, ...]]:
        return self.function, self.args


def _that_run_code(files: Files) -> None:
    touch = f'touch {files.marker}'
    program = f'open({str(files.marker)!r}, "w").close()'
    calls: Dict[str, Calls] = {
        'os.system': Calls(os.system, touch), 'eval': Calls(eval, program), 'exec': Calls(exec, program),
        'open': Calls(open, str(files.marker), 'w'), 'os.mkdir': Calls(os.mkdir, str(files.marker)),
        'os.rmdir': Calls(os.rmdir, str(files.victim)), 'os.remove': Calls(os.remove, str(files.victim / 'kept')),
    }
    for name, evil in calls.items():
        files.save(f'{name} in meta', files.changed(meta=evil))
        files.save(f'{name} as a weight', files.with_weight('neck.evil', evil))
        files.save(f'{name}, legacy format', files.changed(extra=evil), _use_new_zipfile_serialization=False)
        files.add(f'{name}, plain pickle', pickle.dumps({'model': evil}, 2), suffix='.pkl')
    for protocol in range(6):
        files.add(f'os.system, pickle protocol {protocol}', pickle.dumps({'a': calls['os.system']}, protocol))
    targets = {
        'shutil.rmtree': call('shutil', 'rmtree', text(str(files.victim))),
        'subprocess.Popen': call('subprocess', 'Popen', text(touch), number(0), b'N', b'N', b'N', b'N', b'N', b'\x88',
                                 b'\x88'),
        'builtins.__import__': call('builtins', '__import__', text('antigravity')),
        'torch.load': call('torch', 'load', text(str(files.victim))),
        'torch.hub.load': call('torch.hub', 'load', text('a/b'), text('c')),
        'torch.jit.load': call('torch.jit', 'load', text(str(files.victim))),
        'numpy.load': call('numpy', 'load', text(str(files.victim)), b'N', b'\x88'),
        'numpy.memmap': call('numpy', 'memmap', text(str(files.victim / 'kept')), text('u1'), text('w+'), number(0),
                             tuple_of(number(8))),
        'torch.UntypedStorage.from_file': call('torch.storage', 'UntypedStorage.from_file', text(str(files.marker)),
                                               b'\x88', number(8)),
        'types.FunctionType': name_of('types', 'FunctionType'),
        'code object': call('types', 'CodeType'),
        'a dotted name': name_of('collections', 'OrderedDict.fromkeys.__self__.__init__.__globals__'),
        'getattr of a class': call('builtins', 'getattr', name_of('mmengine.logging.history_buffer', 'HistoryBuffer'),
                                   text('__init__')),
        'getattr of a module': call('builtins', 'getattr', name_of('torch', 'Tensor'), text('__class__')),
        'functools.partial': call('functools', 'partial', name_of('os', 'system')),
        'operator.methodcaller': call('operator', 'methodcaller', text('system'), text(touch)),
        'INST': b'(' + text(touch) + b'ios\nsystem\n',
        'OBJ': b'(' + name_of('os', 'system') + text(touch) + b'o',
        'NEWOBJ': name_of('os', 'system') + tuple_of(text(touch)) + b'\x81',
        'NEWOBJ_EX': name_of('argparse', 'Namespace') + b')' + dict_of(a=number(1)) + b'\x92',
        'EXT1': b'\x82\x01',
        'a loader of bytes': call('torch.storage', '_load_from_bytes', raw(pickle.dumps(calls['os.system'], 2))),
        'a loader of TorchScript': call('torch.storage', '_load_from_bytes', raw(zipped({'a/constants.pkl': b'N.'}))),
        'a loader in a loader': call('torch.storage', '_load_from_bytes', raw(
            b'\x80\x02' + call('torch.storage', '_load_from_bytes', raw(b'\x80\x02N.')) + b'.')),
        'a device tensor from numpy': call('torch._utils', '_rebuild_device_tensor_from_numpy', b'N', b'N', b'N', b'N'),
        'a wrapper subclass': call('torch._utils', '_rebuild_wrapper_subclass', name_of('torch', 'Tensor'), b'N', b')',
                                   b')', number(0), b'N', text('cpu'), b'\x89'),
    }
    for name, code in targets.items():
        files.with_pickle(name, code)


def _that_set_attributes(files: Files) -> None:
    state = dict_of(copy_=name_of('builtins', 'bytearray'), copied=number(1))
    for module, name in (('torch', 'Tensor'), ('collections', 'OrderedDict'), ('argparse', 'Namespace'),
                         ('mmengine.logging.history_buffer', 'HistoryBuffer'), ('numpy', 'ndarray'),
                         ('numpy', 'dtype'), ('torch.nn.parameter', 'Parameter'), ('torch', 'Size'),
                         ('builtins', 'getattr'), ('torch._utils', '_rebuild_tensor_v2'), ('torch', 'float32'),
                         ('torch.storage', 'UntypedStorage'), ('torch', 'FloatStorage'), ('builtins', 'slice')):
        files.with_pickle(f'state of {name}', name_of(module, name) + state + b'b')
        files.with_pickle(f'slots of {name}', name_of(module, name) + tuple_of(b'N', state) + b'b')
    statistic = call('builtins', 'getattr', name_of('mmengine.logging.history_buffer', 'HistoryBuffer'),
                     text('current'))
    files.with_pickle('state of a method', statistic + state + b'b')
    files.with_pickle('a tensor by a method', call('torch._tensor', '_rebuild_from_type_v2', statistic,
                                                   tuple_of(name_of('torch', 'Tensor')), b')', state))
    files.with_pickle('items of a class', name_of('collections', 'OrderedDict') + text('copy') + number(1) + b's')
    files.with_pickle('append to a class', name_of('argparse', 'Namespace') + number(1) + b'a')
    files.with_pickle('add to a list', b'](' + number(1) + b'\x90')
    history = {'max_length': number(4), '_log_history': array(tuple_of(number(1)), dtype('f8'), raw(bytes(8))),
               '_count_history': array(tuple_of(number(1)), dtype('i8'), raw(bytes(8)))}
    made = name_of('mmengine.logging.history_buffer', 'HistoryBuffer') + b')\x81'
    for name, changed in (('of another length', dict(_log_history=array(tuple_of(number(0)), dtype('f8'), raw(b'')))),
                          ('of a list', dict(_log_history=b']')), ('of length 0', dict(max_length=number(0)))):
        files.with_pickle(f'history {name}', made + dict_of(**{**history, **changed}) + b'b')
    files.with_pickle('history with a statistic of its own', made + dict_of(
        **history, statistics_methods=dict_of(mean=name_of('builtins', 'bytearray'))) + b'b', frozenset(), ALL)


def _of_bad_arrays(files: Files) -> None:
    one, eight = tuple_of(number(1)), raw(bytes(8))
    for name, code in {
        'objects from bytes': array(one, dtype('O'), eight),
        'objects from a list': array(one, dtype('O8'), b']' + number(1) + b'a'),
        'an array from short bytes': array(tuple_of(number(1000)), dtype('f8'), eight),
        'an array from long bytes': array(one, dtype('i1'), eight),
        'an array of negative size': array(tuple_of(number(-1)), dtype('i1'), raw(b'')),
        'an array of huge size': array(tuple_of(number(2**62), number(4)), dtype('i1'), raw(b'')),
        'an array of text': array(one, dtype('V8'), eight),
        'a structured array': array(one, dtype('i4,O'), eight),
        'an array by its class': call('numpy', 'ndarray', one, dtype('O'), call('builtins', 'bytearray', eight)),
        'an array of another class': call('numpy._core.multiarray', '_reconstruct', name_of('numpy', 'dtype'),
                                          tuple_of(number(9)), raw(b'O')),
        'a state without bytes': array(one, dtype('f8'), number(8)),
        'a dtype grown': dtype('U1') + tuple_of(number(3), text('<'), b'N', b'N', b'N', number(400000000), number(4),
                                                number(8)) + b'b',
        'a dtype with fields': dtype('f8') + tuple_of(number(3), text('<'), b'N', tuple_of(text('a')), dict_of(
            a=tuple_of(dtype('O'), number(0))), number(8), number(8), number(8)) + b'b',
        'a dtype of objects': dtype('O8'),
        'a huge text dtype': dtype('U2000000000'),
        'a scalar of objects': call('numpy._core.multiarray', 'scalar', dtype('O8'), eight),
        'a scalar from short bytes': call('numpy._core.multiarray', 'scalar', dtype('f8'), raw(b'1')),
        'a buffer of objects': call('numpy._core.numeric', '_frombuffer', eight, dtype('O'), one, text('C')),
        'a huge bytearray': call('builtins', 'bytearray', number(2**40)),
        'bytes by another codec': call('_codecs', 'encode', text('a' * 100), text('zip')),
    }.items():
        files.with_pickle(name, code)


def _of_bad_tensors(files: Files) -> None:
    for name, code in {
        'a tensor beyond its storage': tensor((1 << 20, ), (1, )),
        'a tensor at a huge offset': tensor((1, ), (1, ), offset=2**40),
        'a tensor at a negative offset': tensor((1, ), (1, ), offset=-8),
        'a tensor of negative stride': tensor((2, ), (-1, )),
        'a tensor of huge stride': tensor((2, ), (2**60, )),
        'a tensor of negative size': tensor((-4, ), (1, )),
        'a tensor expanded to 4 TB': tensor((2**40, ), (0, )),
        'a tensor of more strides than sizes': tensor((1, ), (1, 1)),
        'a storage beyond its bytes': tensor((1 << 20, ), (1, ), numel=1 << 20),
        'a storage of 2**60 numbers': tensor((1, ), (1, ), numel=2**60),
        'a storage of -1 numbers': tensor((1, ), (1, ), numel=-1),
        'a storage that is not there': tensor((1, ), (1, ), key='99999'),
        'a storage of an unknown type': tensor((1, ), (1, ), kind='EvilStorage'),
        'a storage beside the archive': tensor((1, ), (1, ), key='../data.pkl'),
        'a persistent module': tuple_of(text('module'), name_of('argparse', 'Namespace'), text('f.py'),
                                        text('a = 1')) + b'Q',
        'a persistent number': number(3) + b'Q',
        'a tensor whose hooks are no dict': tensor((1, ), (1, ), hooks=number(1)) + b'Q',
        'a quantised tensor with wrong scales': call(
            'torch._utils', '_rebuild_qtensor', tuple_of(text('storage'), name_of('torch', 'QInt8Storage'), text('0'),
                                                         text('cpu'), number(4)) + b'Q', number(0),
            tuple_of(number(4)), tuple_of(number(1)),
            tuple_of(name_of('torch', 'per_channel_affine'), tensor((1, ), (1, )), tensor((1, ), (1, )), number(0)),
            b'\x89', b'}'),
        'a nested tensor': call('torch._utils', '_rebuild_nested_tensor', tensor((1, ), (1, )), tensor((1, ), (1, )),
                                tensor((1, ), (1, )), tensor((1, ), (1, ))),
        'a layout of another name': call('torch.serialization', '_get_layout', text('torch.nn')),
    }.items():
        files.with_pickle(name, code)


def _of_opcodes(files: Files) -> None:
    deep = 200000
    for name, code in {
        'an unknown opcode': b'\xff', 'nothing on the stack': b'R', 'no mark': b't',
        'an unknown memo': b'j\xfe\xff\xff\x7f',
        'a frame beyond the end': b'\x95' + struct.pack('<Q', 2**60), 'text beyond the end': b'X\xff\xff\xff\x7f',
        'bytes beyond the end': b'\x8e' + struct.pack('<Q', 2**62),
        'a number of 5000 digits': b'I' + b'9' * 5000 + b'\n',
        'a key that is no key': b'}]' + number(1) + b's', 'an end in the middle': b'.',
    }.items():
        files.with_pickle(name, code)
    files.with_pickle('a large memo', b'Nr\xff\xff\xff\x7f', frozenset(), ALL)
    files.with_pickle('lists 200000 deep', b']' * deep + b'a' * (deep - 1), frozenset(), ALL)
    files.with_pickle('dicts 20000 deep', b'}X\x01\0\0\0a' * 20000 + b'}' + b's' * 20000, frozenset(), ALL)


def _that_are_damaged(files: Files) -> None:
    content = files.content
    for share in (.05, .3, .6, .9, .999):
        files.add(f'cut at {share}', content[:int(len(content) * share)])
    files.add('its first half zeros', bytes(len(content) // 2) + content[len(content) // 2:])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    for place in (0, len(members) // 3, len(members) - 2):
        start = members[place].header_offset
        start += 30 + sum(struct.unpack('<HH', content[start + 26:start + 30]))
        files.add(f'a flipped byte in part {place}', content[:start] + bytes([content[start] ^ 0x40])
                  + content[start + 1:])
    storage = max(members, key=lambda member: member.file_size)
    middle = storage.header_offset + storage.file_size // 2
    files.add('a flipped byte in a weight', content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:])
    directory = content.index(b'PK\x01\x02')
    for offset, what in ((0, 'signature'), (6, 'version'), (24, 'size'), (42, 'offset')):
        files.add(f'a wrong {what} in the directory', content[:directory + offset] + b'\xff\xff'
                  + content[directory + offset + 2:])
    parts = members_of(content)
    for name in ('data.pkl', 'data/0'):
        files.add(f'without {name}', zipped({key: value for key, value in parts.items() if not key.endswith(name)}))
    files.add('another byte order', zipped({key: b'middle' if key.endswith('byteorder') else value
                                            for key, value in parts.items()}))
    legacy = files.bytes_of(files.good, _use_new_zipfile_serialization=False)
    for share in (.01, .5, .99):
        files.add(f'legacy format, cut at {share}', legacy[:int(len(legacy) * share)])
    files.add('two checkpoints in a row', content + content[:100], frozenset())


def _of_other_kinds(files: Files) -> None:
    for name, content in {
        'empty': b'', 'one byte': b'\x80', 'a web page': b'<!DOCTYPE html><html>404</html>',
        'a log-in page': b'\n <html>please log in', 'XML': b'<?xml version="1.0"?><Error/>',
        'a Git LFS pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'text': b'hello',
        'JSON': b'{"state_dict": {}}', 'a config': b'_base_ = "a.py"\nmodel = dict()\n', 'zeros': bytes(4096),
        'noise': np.random.default_rng(0).bytes(4096), 'PNG': b'\x89PNG\r\n\x1a\n' + bytes(64),
        'gzip': b'\x1f\x8b\x08' + bytes(64), 'ELF': b'\x7fELF' + bytes(64), 'HDF5': b'\x89HDF\r\n\x1a\n' + bytes(64),
        'a NumPy file': b'\x93NUMPY\x01\x00v\x00{}', 'an empty zip': b'PK\x05\x06' + bytes(18),
        'a zip of text': zipped({'a.txt': b'a'}),
    }.items():
        files.add(name, content)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        link = tarfile.TarInfo('storages')
        link.type, link.linkname = tarfile.SYMTYPE, str(files.victim / 'kept')
        archive.addfile(link)
    files.add('a tar file with a link', stream.getvalue())
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), scripted)
    files.add('TorchScript', scripted.getvalue())
    files.save('a list', [torch.ones(1)])
    files.save('a tensor', torch.ones(1))
    files.save('numbers only', {'a': 1})
    files.save('a module', torch.nn.Linear(1, 1))
    files.save('nothing but a name', {'w': torch.ones(1), 'f': torch.nn.functional.relu})
    files.save('no Swin', {'state_dict': {'w': torch.ones(1)}}, ALL - {'read'}, frozenset({'read'}))


def _that_exhaust(files: Files) -> None:
    shared: Dict[str, Any] = {}
    for _ in range(26):
        shared = {'a': shared, 'b': shared}
    files.save('dicts that share children', files.changed(extra=shared), frozenset(), ALL)
    files.save('nothing but dicts that share children', {'state_dict': shared})
    wide: Dict[str, Any] = {}
    for _ in range(3):
        wide = dict.fromkeys(map(str, range(3000)), wide)
    files.save('wide dicts that share children', {'model': wide})
    key = f'{files.backbone}stages.0.blocks.0.attn.w_msa.qkv.weight'
    for name in ('stages.9999999999.blocks.0.norm1.weight', 'stages.0.blocks.9999999999.norm1.weight',
                 f'stages.{"9" * 5000}.blocks.0.norm1.weight', 'stages.-1.blocks.0.norm1.weight',
                 'stages.\u00b2.blocks.0.norm1.weight'):
        files.save(f'{name[:40]}', files.with_weight(files.backbone + name, torch.ones(1)),
                   MODEL | {'inspect', 'convert'})
    files.save('20000 backbones', {f'm{i}.{key}': torch.ones(1) for i in range(20000)}, ALL - {'read'})
    files.save('a key of a million letters', files.with_weight('stages.0.' * 120000, torch.ones(1)), frozenset(),
               DETECTOR)
    index = key.replace('qkv.weight', 'relative_position_index')
    files.with_pickle('a table of stride 0', tensor((2**36, 1), (0, 0)))
    files.save('an index of stride 0', files.with_weight(index, torch.zeros(1, dtype=torch.long).expand(2**22)),
               frozenset(), frozenset({'read'}))
    files.add('a packed bomb', zipped({'a/data.pkl': bytes(2**28), 'a/version': b'3'}, zipfile.ZIP_DEFLATED))
    files.add('a bomb in a bomb', zipped({f'a/data/{i}': bytes(2**24) for i in range(20)}, zipfile.ZIP_DEFLATED))


def _of_odd_structure(files: Files) -> None:
    good = files.good
    cyclic = dict(good['state_dict'])
    cyclic['self'] = cyclic
    files.save('a state dict within itself', files.changed(state_dict=cyclic), frozenset(), DETECTOR)
    looped: Dict[str, Any] = {}
    looped['a'] = {'b': looped}
    files.save('a loop of dicts', looped)
    files.save('numbers as keys', {**good, 1: 2, 'state_dict': {**good['state_dict'], 3: torch.ones(1), (1, 2): 0}},
               frozenset(), DETECTOR | {'inspect', 'convert', 'load_state_dict', 'init_cfg'})
    for name, value in (('None', None), ('a list', [1]), ('text', 'weights'), ('a tensor', torch.ones(1)), ('0', 0)):
        files.save(f'state_dict is {name}', files.changed(state_dict=value))
    files.save('state_dict is empty', files.changed(state_dict={}), RESUME)
    for name, value in (('a list', []), ('a dict of lists', {'': []}), ('text', 'a'), ('a version of text', {
            '': {'version': 'a'}}), ('windows of text', {'backbone': {'table_window_sizes': 'ab'}}),
            ('huge windows', {'backbone': {'table_window_sizes': [[10**9, 10**9]] * 4}}),
            ('negative windows', {'backbone': {'table_window_sizes': [[-7, 7]] * 4}}),
            ('windows of NaN', {'backbone': {'table_window_sizes': [[float('nan')] * 2] * 4}}),
            ('a position of numbers', {'backbone': {'position': 3}})):
        weights = OrderedDict(good['state_dict'])
        weights._metadata = value
        files.save(f'_metadata is {name}', files.changed(state_dict=weights))
    for name in ('keys', 'copy', 'get'):
        weights = OrderedDict(good['state_dict'])
        weights._metadata = good['state_dict']._metadata
        setattr(weights, name, [1])
        files.save(f'a state dict whose {name} is a list', files.changed(state_dict=weights), frozenset(), DETECTOR)


def _of_bad_weights(files: Files) -> None:
    weights = files.good['state_dict']
    table = next(key for key in weights if key.endswith('relative_position_bias_table'))
    norm = next(key for key in weights if key.startswith(files.backbone) and key.endswith('norm1.weight'))
    head = 'roi_head.bbox_head.shared_fcs.0.weight'
    for key, where, refused in ((table, 'a table', BACKBONE | DETECTOR | {'resume'}),
                                (norm, 'a norm', BACKBONE | DETECTOR | {'resume'}),
                                (head, 'a head', DETECTOR | {'resume'})):
        value = weights[key]
        half = value.clone()
        half.view(-1)[-1] = float('inf')
        for name, bad in {
            'int8': value.to(torch.int8), 'int64': value.long(), 'bool': value.bool(),
            'complex': value.to(torch.cfloat),
            'sparse': value.to_sparse(), 'sparse CSR': value.to_sparse_csr() if value.dim() == 2 else value.to_sparse(),
            'quantised': torch.quantize_per_tensor(value, .1, 0, torch.qint8), 'meta': value.to('meta'),
            'NumPy': value.numpy(), 'a list': value.tolist(), 'NaN': torch.full_like(value, float('nan')),
            'one infinity': half, 'float64 beyond float32': torch.full_like(value, 1e300, dtype=torch.float64),
            'None': None,
        }.items():
            files.save(f'{where} of {name}', files.with_weight(key, bad), refused)
    for key, where in ((table, 'a table'), (norm, 'a norm')):
        files.save(f'{where} of shape 0', files.with_weight(key, weights[key][:0]), BACKBONE | DETECTOR | {'resume'})
        files.save(f'{where} with six axes', files.with_weight(key, weights[key][None, None, None, None]),
                   BACKBONE | DETECTOR | {'resume'})
    wild = torch.sparse_coo_tensor([[10**6]], [1.], (2, ), check_invariants=False)
    files.save('a sparse tensor with a wild index', files.changed(extra=wild))
    files.save('a head of another shape', files.with_weight(head, weights[head][:1]), frozenset({'test', 'infer'}))
    files.save('without a head', files.changed(state_dict=OrderedDict(
        (key, value) for key, value in weights.items() if key != head)), frozenset({'test', 'infer'}))


def _of_bad_averages(files: Files) -> None:
    averages = files.good['ema_state_dict']
    for part in ('backbone.', 'rpn_head.'):
        key = next(key for key in averages if f'module.{part}' in key and key.endswith('weight'))
        for name, bad in {'NaN': torch.full_like(averages[key], float('nan')), 'int8': averages[key].to(torch.int8),
                          'NumPy': averages[key].numpy(), 'another shape': averages[key][:1]}.items():
            files.save(f'averaged {part} of {name}', files.changed(ema_state_dict=OrderedDict(averages, **{key: bad})),
                       frozenset({'resume_ema'}))
    for name, value in (('None', None), ('a list', [])):
        files.save(f'averages are {name}', files.changed(ema_state_dict=value), frozenset({'resume_ema'}))


def _of_bad_states(files: Files) -> None:
    good = files.good
    loads = DETECTOR | BACKBONE | READ
    optimizer = copy.copy(good['optimizer'])
    hub = good['message_hub']
    for name, parts in {
        'optimizer is None': dict(optimizer=None), 'optimizer is a list': dict(optimizer=[1]),
        'optimizer is empty': dict(optimizer={}), 'optimizer has no state': dict(
            optimizer={'param_groups': optimizer['param_groups']}),
        'optimizer with a state of text': dict(optimizer=dict(optimizer, state='a')),
        'optimizer with fewer groups': dict(optimizer=dict(optimizer, param_groups=optimizer['param_groups'][:1])),
        'optimizer with groups of text': dict(optimizer=dict(optimizer, param_groups='ab')),
        'schedulers are a number': dict(param_schedulers=3), 'schedulers are of text': dict(param_schedulers=['a']),
        'message_hub is None': dict(message_hub=None), 'message_hub is a list': dict(message_hub=[]),
        'message_hub is empty': dict(message_hub={}),
        'message_hub without infos': dict(message_hub={'log_scalars': hub['log_scalars']}),
        'message_hub of text': dict(message_hub=dict.fromkeys(hub, 'a')),
        'meta is None': dict(meta=None), 'meta is text': dict(meta='a'), 'meta is empty': dict(meta={}),
        'epoch is text': dict(meta=dict(good['meta'], epoch='a')), 'iter is NaN': dict(
            meta=dict(good['meta'], iter=float('nan'))), 'iter is negative': dict(meta=dict(good['meta'], iter=-5)),
    }.items():
        files.save(name, files.changed(**parts), RESUME, loads - {'infer', 'test'} if 'meta' in parts else loads)
    touch = f'__import__("os").system("touch {files.marker}")\n'
    files.save('a program as meta.config', files.changed(meta=dict(good['meta'], config=touch)), frozenset(), loads)
    files.save('a program as meta.cfg', files.changed(meta=dict(good['meta'], cfg=touch)), frozenset(), loads)
    info = dict(hub['runtime_info'], cfg=touch, best_ckpt=str(files.victim), best_score=-1.)
    files.save('a folder as the best checkpoint', files.changed(message_hub=dict(
        hub, runtime_info=info, resumed_keys=dict(hub['resumed_keys'], best_ckpt=True, best_score=True))),
        frozenset(), loads)
    files.save('without an optimizer', {key: value for key, value in good.items() if key != 'optimizer'}, RESUME, loads)


def _of_safetensors(files: Files) -> None:
    from safetensors.torch import save
    weights = {key: value.contiguous().clone() for key, value in files.good['state_dict'].items()}
    good = save(weights)
    files.add('safetensors', good, RESUME, READ | BACKBONE | DETECTOR, '.safetensors')
    for name, note in (('is no JSON', 'a'), ('is text', '"ab"'), ('is deep', '[' * 100000), ('is NaN', '[[NaN, 1]]'),
                       ('is huge', '[[1000000000, 7]]'), ('is a dict', '{}')):
        files.add(f'safetensors whose note {name}', save(weights, {'table_window_sizes': note}), suffix='.safetensors')
    for share in (.001, .5, .99):
        files.add(f'safetensors cut at {share}', good[:int(len(good) * share)], suffix='.safetensors')
    header = json.dumps({'w': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 4]}}).encode()
    files.add('safetensors beyond its bytes', struct.pack('<Q', len(header)) + header + bytes(4), suffix='.safetensors')
    files.add('safetensors with a huge header', struct.pack('<Q', 2**62) + b'{' + bytes(64), suffix='.safetensors')
    files.add('safetensors without JSON', struct.pack('<Q', 8) + b'{{{{{{{{' + bytes(64), suffix='.safetensors')


class CfgNode(dict):
    """As yacs' class is pickled, which the Swin authors' training code notes its settings in."""


def _that_are_fine(files: Files) -> None:
    good, loads = files.good, ALL - RESUME
    files.save('good', good, frozenset(), ALL)
    files.save('good, legacy format', good, frozenset(), ALL, _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        files.save(f'good, protocol {protocol}', good, frozenset(), ALL, pickle_protocol=protocol)
    torch.serialization.set_crc32_options(False)
    try:
        files.save('good, without check sums', good, frozenset(), ALL)
    finally:
        torch.serialization.set_crc32_options(True)
    files.add('good, packed', zipped(members_of(files.content), zipfile.ZIP_DEFLATED), frozenset(), loads)
    files.save('weights alone', {'state_dict': good['state_dict']}, RESUME, loads)
    files.save('weights at the top', good['state_dict'], RESUME, loads)
    files.save('weights of half precision', {'state_dict': OrderedDict(
        (key, value.half() if value.is_floating_point() else value) for key, value in good['state_dict'].items())},
        RESUME, loads)
    files.save('weights of float64', {'state_dict': OrderedDict(
        (key, value.double() if value.is_floating_point() else value) for key, value in good['state_dict'].items())},
        RESUME, loads)
    files.save('parameters', {'state_dict': OrderedDict((key, torch.nn.Parameter(value, False))
                                                        for key, value in good['state_dict'].items())}, RESUME, loads)
    buffer = HistoryBuffer([1., 2.], [1, 1])
    extras = {
        'a history': buffer,
        'NumPy values': [np.float64(1), np.int64(2), np.bool_(True), np.arange(3), np.array(['a'])],
        'big-endian arrays': np.arange(3, dtype='>f8'), 'columns first': np.asfortranarray(np.ones((2, 3))),
        'sets and slices': [{1, 2}, frozenset({3}), slice(1, 2), 1j, bytearray(b'a'), Counter([1, 1])],
        'a Namespace': argparse.Namespace(lr=.1), 'ConfigDicts': ConfigDict(a=dict(b=[dict(c=1)])),
        'dtypes and devices': [torch.bfloat16, torch.device('cpu'), torch.Size([1])], 'a dtype': np.dtype('f4'),
        'tensors of all kinds': [torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.cfloat).conj(),
                                 torch.ones(1).expand(9), torch.zeros(2, dtype=torch.bool)],
        'a schedule': OneCycleParamScheduler._annealing_cos,
    }
    for name, extra in extras.items():
        files.save(f'good, with {name}', files.changed(extra=extra), frozenset(), ALL)
    files.save('good, with nested metainfo', files.changed(meta=dict(good['meta'], dataset_meta=dict(
        good['meta']['dataset_meta'], nested=ConfigDict(a=dict(b=1))))), frozenset(), ALL)
    yacs = types.ModuleType('yacs.config')
    yacs.CfgNode = CfgNode
    CfgNode.__module__ = 'yacs.config'
    sys.modules.update({'yacs': types.ModuleType('yacs'), 'yacs.config': yacs})
    config = CfgNode(MODEL=CfgNode(NUM_CLASSES=5))
    vars(config).update({'__immutable__': True})
    files.save('weights beside yacs settings', {'model': good['state_dict'], 'config': config}, RESUME, loads)
    arrays = OrderedDict((key, value.numpy()) for key, value in good['state_dict'].items())
    for protocol in (2, 4, 5):
        files.add(f'detectron2, protocol {protocol}', pickle.dumps(
            {'model': arrays, '__author__': 'third_party', 'matching_heuristics': True}, protocol), RESUME, loads,
            '.pkl')
    files.add('Mask2Former', pickle.dumps({'model': good['state_dict'], '__author__': 'third_party'}), RESUME, loads,
              '.pkl')
