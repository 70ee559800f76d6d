"""Run a function in a child of this process, with limits, and tell what it did to the process and the disk.

A fork of a process that has imported everything costs milliseconds; a new process costs seconds.
"""
from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import resource
import select
import signal
import sys
import traceback
from typing import Any, Callable, Dict, Iterator, List

SECONDS, BYTES = 20, 2**30
_WATCHED = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.Popen', 'os.remove', 'os.rmdir',
            'shutil.rmtree', 'socket.connect', 'pty.spawn')
_LIBRARIES = ('torch', 'numpy', 'mmengine', 'mmdet', 'collections', 'argparse')
_NAMED = ('torch', 'torch._tensor', 'torch._utils', 'torch.nn.parameter', 'torch.storage', 'torch.serialization', 'numpy',
          'collections', 'argparse', 'mmengine.logging.history_buffer')
Attributes = Dict[str, Dict[str, int]]


def attributes(everywhere: bool = True) -> Attributes:
    """The functions and classes that are attributes of modules and classes: owner -> name -> identity.

    Args:
        everywhere: in the libraries; or in the modules alone whose names a checkpoint may hold, which is quicker.
    """
    owners: Dict[str, Any] = {'builtins': builtins}
    for name, module in list(sys.modules.items()):
        if module is not None and (name.split('.')[0] in _LIBRARIES if everywhere else name in _NAMED):
            owners[name] = module
            owners.update((f'{name}:{key}', value) for key, value in list(vars(module).items())
                          if isinstance(value, type) and value.__module__ == name)
    return {name: {key: id(value) for key, value in list(vars(owner).items()) if callable(value)}
            for name, owner in owners.items()}


def changes(before: Attributes, after: Attributes) -> List[str]:
    """Attributes that were replaced, or added to a class; modules get new ones when others are imported."""
    return [f'{owner}.{key}' for owner, own in before.items() for key, value in after.get(owner, {}).items()
            if own.get(key, value if ':' not in owner else None) != value]


def run_isolated(function: Callable[[], Any], before: Attributes, everywhere: bool) -> Dict[str, Any]:
    """Call ``function`` in a child.

    Args:
        function: returns ``None``, or the exit status of a command line.
        before, everywhere: the result of :func:`attributes`, and where to look for changes.

    Returns:
        ``outcome``: 'loaded', 'said' (an error of ``UserError``), 'traceback' (any other exception), 'crashed' (by a
        signal) or 'hung'; ``message``; ``events``: calls of the system that the file could have caused; ``changed``:
        attributes of classes and modules.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _limit()
            report = _report(function, before, everywhere)
        except BaseException:
            report = dict(outcome='traceback', message=traceback.format_exc(), events=[], changed=[])
        with contextlib.suppress(BaseException), os.fdopen(writer, 'w') as stream:
            stream.write(json.dumps(report))
        os._exit(0)
    os.close(writer)
    return _outcome(child, reader)


def _outcome(child: int, reader: int) -> Dict[str, Any]:
    chunks, hung = [], False
    while True:
        if not select.select([reader], [], [], SECONDS + 10)[0]:
            os.kill(child, signal.SIGKILL)
            hung = True
            break
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        chunks.append(chunk)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if hung or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM):
        return dict(outcome='hung', message='', events=[], changed=[])
    if os.WIFSIGNALED(status) or not chunks:
        return dict(outcome='crashed', message=f'signal {status & 0x7f}', events=[], changed=[])
    return json.loads(b''.join(chunks))


def _limit() -> None:
    with open('/proc/self/statm') as stream:
        used = int(stream.read().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)


def _report(function: Callable[[], Any], before: Attributes, everywhere: bool) -> Dict[str, Any]:
    from swin_pos_det.errors import UserError

    events: List[str] = []
    sys.addaudithook(lambda name, args: events.append(f'{name} {args!r}'[:200]) if name in _WATCHED else None)
    with _captured() as captured:
        try:
            status = function()
            outcome, message = ('said' if isinstance(status, int) and status else 'loaded'), ''
        except UserError as error:
            outcome, message = 'said', str(error)
        except Exception as error:
            outcome, message = 'traceback', f'{type(error).__name__}: {error}\n{traceback.format_exc()}'
    if outcome == 'said' and not message:
        lines = captured.getvalue().splitlines()
        message = '\n'.join(line for line in lines if line.startswith('error: '))
    return dict(outcome=outcome, message=message[:2000], events=list(events), changed=changes(before, attributes(everywhere)))


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stream):
        yield stream
