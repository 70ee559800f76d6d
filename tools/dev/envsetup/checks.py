"""What the machine must have. Each check returns None or one clause that says what is missing and what to do."""
from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .stacks import DEFAULT_TORCH, Stack

GIB = 2**30
# Measured with a CPU build of torch: 1.7 GiB in the environment, 0.5 GiB for mmcv's objects and wheel.
VENV_BYTES = 3 * GIB
CACHE_BYTES = 1 * GIB
DEFAULT_TORCH_MIN_PYTHON = (3, 10)

_PROGRAM = '#include <vector>\nint main() { std::vector<int> v{0}; return v.at(0); }\n'


def check_python(stack: Stack, torch_spec: str | None, version: tuple[int, int] | None = None) -> str | None:
    """Whether the interpreter is new enough for the stack and for torch (`torch_spec` None: the default one)."""
    version = version or sys.version_info[:2]
    least, why = stack.min_python, f'the {stack.name} stack'
    if torch_spec is None and least < DEFAULT_TORCH_MIN_PYTHON:
        least, why = DEFAULT_TORCH_MIN_PYTHON, f'{DEFAULT_TORCH} (or set TORCH_SPEC)'
    if version >= least:
        return None
    return f'{why} needs Python {least[0]}.{least[1]} or later, this is {version[0]}.{version[1]}'


def check_venv_module() -> str | None:
    """Debian ships `venv` and `ensurepip` in a package of their own."""
    missing = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
    package = f'python{sys.version_info[0]}.{sys.version_info[1]}-venv'
    return f'the Python module {missing[0]} is missing (Debian: apt-get install {package})' if missing else None


def check_headers(include: str | None = None) -> str | None:
    """mmcv's operators are compiled against Python.h."""
    header = Path(include or sysconfig.get_path('include')) / 'Python.h'
    package = f'python{sys.version_info[0]}.{sys.version_info[1]}-dev'
    return None if header.is_file() else f'{header} is missing (Debian: apt-get install {package})'


def check_compiler(env: Mapping[str, str] = os.environ) -> str | None:
    """Compile and link a tiny C++17 program with `$CXX`, else `c++`, the one torch's build uses."""
    command = shlex.split(env.get('CXX') or 'c++')
    if shutil.which(command[0], path=env.get('PATH', os.defpath)) is None:
        return f'a C++ compiler is missing: no {command[0]!r} on PATH (Debian: apt-get install g++, or set CXX)'
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'probe.cpp'
        source.write_text(_PROGRAM, encoding='utf-8')
        done = subprocess.run([*command, '-std=c++17', str(source), '-o', str(source.with_suffix(''))],
                              env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    reason = next((line for line in done.stderr.splitlines() if 'error' in line), f'exit status {done.returncode}')
    return f'the C++ compiler {command[0]!r} cannot build a small C++17 program ({reason.strip()})'


def existing_parent(path: Path) -> Path:
    """The nearest folder at or above `path` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def check_disk(needs: Mapping[Path, int]) -> list[str]:
    """Whether each file system has room.

    Args:
        needs: bytes needed below each path; needs on one file system are added up.
    """
    total: dict[int, int] = {}
    where: dict[int, Path] = {}
    for path, size in needs.items():
        parent = existing_parent(path)
        device = parent.stat().st_dev
        total[device] = total.get(device, 0) + size
        where.setdefault(device, parent)
    problems = []
    for device, size in total.items():
        free = shutil.disk_usage(where[device]).free
        if free < size:
            problems.append(f'{size / GIB:.1f} GiB of free disk are needed at {where[device]}, '
                            f'{free / GIB:.1f} are there')
    return problems
