"""Run commands with a log, a line of progress, and a readable failure."""
from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HEARTBEAT_S = 20.0


class SetupError(Exception):
    """The set-up must stop; the message is for the user."""


def child_env(**extra: str) -> dict[str, str]:
    """Return this process's environment without the variables that lead Python or pip out of the virtual one."""
    drop = ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_REQUIRE_VIRTUALENV')
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    return {**kept, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1', 'PIP_USER': '0',
            'PIP_ROOT_USER_ACTION': 'ignore', 'PYTHONUNBUFFERED': '1', **extra}


def last_line(text: str) -> str:
    """Return the last line of a log; for a build with ninja, the number of compiled files."""
    lines = [line.strip() for line in re.split(r'[\r\n]+', text) if line.strip()]
    steps = [match for match in (re.match(r'\[(\d+)/(\d+)\]', line) for line in lines) if match]
    return f'{steps[-1][1]} of {steps[-1][2]} files compiled' if steps else lines[-1][:200] if lines else ''


def run_logged(command: Sequence[str | os.PathLike], log: Path, env: dict[str, str] | None = None) -> None:
    """Run a command into a log file, with lines of progress; raise `SetupError` if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open('wb') as file, subprocess.Popen([os.fspath(part) for part in command], stdin=subprocess.DEVNULL,
                                                  stdout=file, stderr=subprocess.STDOUT,
                                                  env=env or child_env()) as child:
        while child.poll() is None:
            try:
                child.wait(timeout=HEARTBEAT_S)
            except subprocess.TimeoutExpired:
                line = last_line(log.read_text('utf-8', errors='replace'))
                print(f'      {time.monotonic() - start:5.0f} s  {line[:90]}', flush=True)
    if child.returncode:
        tail = log.read_text('utf-8', errors='replace').splitlines()[-15:]
        raise SetupError(f'{" ".join(Path(part).name for part in command[:4])} failed with status {child.returncode}; '
                         f'the last lines of {log}:\n' + '\n'.join(f'  | {line[:200]}' for line in tail))


def run_python(python: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh, isolated interpreter of the environment and capture its output."""
    return subprocess.run([os.fspath(python), '-I', '-c', code], env=child_env(), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
