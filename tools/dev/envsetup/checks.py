"""Check that the machine has what the set-up needs. Each check returns a clause that says what is missing, or None."""
from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

GIB = 2**30
_DEBIAN = f'Debian: apt-get install python{sys.version_info[0]}.{sys.version_info[1]}'


def check_venv_module() -> str | None:
    """Check for `venv` and `ensurepip`, which Debian ships in a package of their own."""
    missing = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
    return f'the Python module {missing[0]} is missing ({_DEBIAN}-venv)' if missing else None


def check_compiler() -> str | None:
    """Check for the C++ compiler (`$CXX`, else `c++`) and the Python.h that mmcv's operators are compiled with."""
    compiler = (os.environ.get('CXX') or 'c++').split()[0]
    if shutil.which(compiler) is None:
        return f'a C++ compiler is missing: no {compiler!r} on PATH (Debian: apt-get install g++, or set CXX)'
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    return None if header.is_file() else f'{header} is missing ({_DEBIAN}-dev)'


def check_disk(path: Path, size: int) -> str | None:
    """Check for `size` free bytes where `path` is or will be."""
    parent = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    return None if free >= size else f'{size / GIB:.1f} GiB of disk are needed at {parent}, {free / GIB:.1f} are free'
