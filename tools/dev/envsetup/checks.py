"""Check that the machine has what the set-up needs."""
from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

GIB = 2**30
VENV_BYTES = 4 * GIB  # measured with a CPU build of torch: 2.7 GiB, 1.0 of it triton
_DEBIAN = f'Debian: apt-get install python{sys.version_info[0]}.{sys.version_info[1]}'


def find_problems(venv: Path, cache: Path) -> list[str]:
    """Return all problems that would stop the set-up later, a clause each."""
    found = []
    parent = next(folder for folder in (venv, *venv.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < VENV_BYTES:
        found.append(f'{VENV_BYTES / GIB:.1f} GiB of disk are needed at {parent}, {free / GIB:.1f} are free')
    if not (venv / 'pyvenv.cfg').is_file():
        # Debian ships these in a package of their own.
        missing = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
        if missing:
            found.append(f'the Python module {missing[0]} is missing ({_DEBIAN}-venv)')
        if venv.is_file() or venv.is_dir() and any(venv.iterdir()):
            found.append(f'{venv} exists and is not a virtual environment: move it away or name another folder')
    # A prebuilt or cached mmcv needs no compiler; should it not fit, the build fails with a clear message.
    if not os.environ.get('MMCV_FIND_LINKS') and not any(cache.glob('wheels/*/*.whl')):
        found.extend(find_compiler_problems())
    return found


def find_compiler_problems() -> list[str]:
    """Look for the C++ compiler (`$CXX`, else `c++`) and the Python.h that mmcv's operators are compiled with."""
    compiler = (os.environ.get('CXX') or 'c++').split()[0]
    if shutil.which(compiler) is None:
        return [f'a C++ compiler is missing: no {compiler!r} on PATH (Debian: apt-get install g++, or set CXX)']
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    return [] if header.is_file() else [f'{header} is missing ({_DEBIAN}-dev)']
