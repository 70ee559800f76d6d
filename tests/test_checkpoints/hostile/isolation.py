"""Run functions in a child of this process, with limits, and tell what they did to the process and the disk.

A fork of a process that has imported everything costs a tenth of a second; a new process costs seconds.
"""
from __future__ import annotations

import builtins
import contextlib
import io
import json
import operator
import os
import resource
import select
import signal
import sys
import traceback
from typing import Any, Callable, Dict, Iterator, List, Tuple

SECONDS, BYTES = 60, 2**30
_WATCHED = ('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.Popen', 'os.remove', 'os.rmdir',
            'shutil.rmtree', 'socket.connect', 'pty.spawn')
_LIBRARIES = ('torch', 'numpy', 'mmengine', 'mmdet', 'collections', 'argparse')
Attributes = Dict[str, Tuple[Any, Dict[str, Any]]]


def attributes() -> Attributes:
    """Return the libraries' modules and classes, each with what it holds now: module or class -> (it, attributes)."""
    owners: Dict[str, Any] = {'builtins': builtins}
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in _LIBRARIES and module is not None:
            owners[name] = module
            owners.update((f'{name}:{key}', value) for key, value in list(vars(module).items())
                          if isinstance(value, type) and value.__module__ == name)
    return {name: (owner, dict(vars(owner))) for name, owner in owners.items()}


def changes(before: Attributes) -> List[str]:
    """Return functions and classes that were replaced, or added to a class; modules get new ones by imports."""
    found = []
    for name, (owner, old) in before.items():
        now = vars(owner)
        if len(now) == len(old) and all(map(operator.is_, now.values(), old.values())):
            continue  # the usual case, at the speed of C for tens of thousands of attributes
        found += [f'{name}.{key}' for key, value in list(now.items()) if callable(value)
                  and old.get(key, value if ':' not in name else None) is not value]
    return found


def run_isolated(functions: Dict[str, Callable[[], Any]], before: Attributes) -> Dict[str, Any]:
    """Call functions, one after the other, in a child.

    Args:
        functions: by name; each returns anything, or the exit status of a command line.
        before: of :func:`attributes`.

    Returns:
        ``outcomes``: for each function its ``outcome``: 'loaded', 'said' (an error of ``UserError``), 'traceback' (any
        other exception), 'crashed' (by a signal) or 'hung'; ``message``; ``events``: calls of the system that a file
        could have caused. And ``changed``: attributes of classes and modules.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with contextlib.suppress(BaseException), os.fdopen(writer, 'w') as stream:
            _limit()
            for name, report in _reports(functions):
                stream.write(json.dumps([name, report]) + '\n')
                stream.flush()
            stream.write(json.dumps(['changed', changes(before)]) + '\n')
        os._exit(0)
    os.close(writer)
    lines, ended = _read(child, reader)
    reports = dict(json.loads(line) for line in lines)
    changed = reports.pop('changed', ['unknown'] if ended == 'loaded' else [])
    lost = dict(outcome='crashed' if ended == 'loaded' else ended, message='', events=[])
    return dict(outcomes={name: reports.get(name, lost) for name in functions}, changed=changed)


def _read(child: int, reader: int) -> Any:
    """Return the child's output and its exit."""
    chunks: List[bytes] = []
    ended = 'loaded'
    while ended == 'loaded':
        if not select.select([reader], [], [], SECONDS + 10)[0]:
            os.kill(child, signal.SIGKILL)
            ended = 'hung'
        else:
            chunks.append(os.read(reader, 65536))
            if not chunks[-1]:
                break
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and ended == 'loaded':
        ended = 'hung' if os.WTERMSIG(status) == signal.SIGALRM else 'crashed'
    return b''.join(chunks).splitlines(), ended


def _limit() -> None:
    with open('/proc/self/statm') as stream:
        used = int(stream.read().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)


def _reports(functions: Dict[str, Callable[[], Any]]) -> Iterator[Any]:
    from swin_pos_det.errors import UserError

    events: List[str] = []
    sys.addaudithook(lambda name, args: events.append(f'{name} {args!r}'[:200]) if name in _WATCHED else None)
    for name, function in functions.items():
        del events[:]
        stream, message = io.StringIO(), ''
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(stream):
            try:
                status = function()
                outcome = 'said' if isinstance(status, int) and status else 'loaded'
            except UserError as error:
                outcome, message = 'said', str(error)
            except Exception as error:
                outcome, message = 'traceback', f'{type(error).__name__}: {error}\n{traceback.format_exc()}'
        if outcome == 'said' and not message:  # a command line's
            message = '\n'.join(line for line in stream.getvalue().splitlines() if line.startswith('error: '))
        yield name, dict(outcome=outcome, message=message[:2000],
                         events=[event for event in events if '.converted.pth.' not in event])
