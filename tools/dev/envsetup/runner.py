"""Run commands with a log, a heartbeat and a readable failure; locks that outlive a killed set-up's children."""
from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Callable

HEARTBEAT_S = 20.0
TAIL_BYTES = 64 * 1024
# pip's remarks on the machine's own configuration, which are no part of a failure's cause.
_NOISE = re.compile(r'^WARNING: Location .* is ignored|^\[notice\]|^WARNING: Running pip as')


class SetupError(Exception):
    """The set-up cannot go on; the message is for the user."""


def say(text: str) -> None:
    print(text, flush=True)


def child_env(**extra: str) -> dict[str, str]:
    """This process's environment for a child in the virtual environment, less what would lead it elsewhere."""
    drop = ('PYTHONPATH', 'PYTHONHOME', 'PYTHONSTARTUP', 'VIRTUAL_ENV', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_USER',
            'PIP_REQUIRE_VIRTUALENV', '__PYVENV_LAUNCHER__')
    env = {name: value for name, value in os.environ.items() if name not in drop}
    return {**env, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1', 'PIP_USER': '0',
            'PIP_ROOT_USER_ACTION': 'ignore', 'PYTHONUNBUFFERED': '1', **extra}


def log_tail(log: Path) -> list[str]:
    """The log's last lines that say something."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode('utf-8', errors='replace')
    lines = [line.rstrip() for line in re.split(r'[\r\n]+', text)]
    return [line for line in lines if line.strip() and not _NOISE.match(line)]


def last_line(log: Path) -> str:
    lines = log_tail(log)
    return lines[-1].strip()[:90] if lines else 'starting'


def ninja_progress(log: Path) -> str:
    """The newest `[12/76]` step in a build's log, such as `'12 of 76 files compiled'`."""
    for line in reversed(log_tail(log)):
        match = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if match:
            return f'{match[1]} of {match[2]} files compiled'
    return last_line(log)


def describe(command: Sequence[str | os.PathLike]) -> str:
    """A command's short name: `python -m pip install ...` -> `pip install`."""
    parts = [Path(part).name for part in command]
    return ' '.join(parts[2:4]) if parts[1:2] == ['-m'] else parts[0]


def run_logged(command: Sequence[str | os.PathLike], log: Path, *, env: Mapping[str, str] | None = None,
               progress: Callable[[Path], str] = last_line) -> None:
    """Run a command into a log, with a line of progress every `HEARTBEAT_S` seconds.

    Raises:
        SetupError: if it exits with another status than 0; the message ends with the log's last lines.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open('wb') as file:
        # Inherited lock descriptors keep the locks held by a child that survives this process.
        child = subprocess.Popen([os.fspath(part) for part in command], stdin=subprocess.DEVNULL, stdout=file,
                                 stderr=subprocess.STDOUT, env=dict(env or child_env()), close_fds=False)
    try:
        while True:
            try:
                status = child.wait(timeout=HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                say(f'      {time.monotonic() - start:5.0f} s  {progress(log)}')
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if status != 0:
        tail = '\n'.join('  | ' + line[:200] for line in log_tail(log)[-15:])
        raise SetupError(f'{describe(command)} failed with status {status}; the last lines of {log}:\n{tail}')


def run_python(python: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh, isolated interpreter of the environment, its output captured."""
    return subprocess.run([os.fspath(python), '-I', '-c', code], env=child_env(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)


@contextlib.contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file; say so, and wait, while another process holds it. The system frees a dead process's lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(descriptor, True)
    try:
        start, told = time.monotonic(), None
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - start
                if told is None or waited - told >= HEARTBEAT_S:
                    say(f'      {waited:5.0f} s  waiting: another process holds {what} ({path})')
                    told = waited
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def fail(message: str) -> int:
    """Print one error for the user; returns the exit status."""
    sys.stdout.flush()
    print(f'set-up: {message}', file=sys.stderr, flush=True)
    return 1
