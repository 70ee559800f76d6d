"""The two detection stacks and what each needs; the versions themselves are in `requirements/*.txt`."""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
DEFAULT_TORCH = 'torch==2.13.0'
# setuptools 80 and later have no pkg_resources, which mmcv's setup.py and mmengine 0.10.7 import.
BUILD_TOOLS = ('setuptools<80', 'wheel', 'ninja')


@dataclass(frozen=True)
class Stack:
    """One set of distributions that own the import names mmcv, mmengine and mmdet."""

    name: str  # also the extra's name in setup.py and the requirements file's
    venv: str  # the default folder, relative to the repository
    mmcv: str  # the distribution that ships the import name mmcv
    min_python: tuple[int, int]


STACKS = {
    'openmmlab': Stack('openmmlab', '.venv', 'mmcv', (3, 9)),
    'onedl': Stack('onedl', '.venv-onedl', 'onedl-mmcv', (3, 10)),
}


def read_requirements(name: str, repo: Path = REPO) -> list[str]:
    """The requirement lines of `requirements/NAME.txt`, without comments and blank lines."""
    lines = (repo / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith('#')]


def distribution(requirement: str) -> str:
    """The distribution's name in a requirement line: `'mmcv==2.1.0'` -> `'mmcv'`."""
    return re.split(r'[\s<>=!~;\[]', requirement, maxsplit=1)[0]


def mmcv_spec(stack: Stack, repo: Path = REPO) -> str:
    """The stack's pinned mmcv requirement, such as `'mmcv==2.1.0'`.

    Raises:
        ValueError: if the stack's requirements file does not pin it with `==`.
    """
    for line in read_requirements(stack.name, repo):
        if distribution(line) == stack.mmcv and '==' in line:
            return line
    raise ValueError(f'requirements/{stack.name}.txt must pin {stack.mmcv} with ==')


def package_specs(stack: Stack, repo: Path = REPO) -> list[str]:
    """All requirements except mmcv (its wheel may have to be built) and torch (installed first and then left alone)."""
    lines = [line for name in ('runtime', stack.name, 'test') for line in read_requirements(name, repo)]
    return [line for line in lines if distribution(line) not in (stack.mmcv, 'torch')]


def wheel_key(python_tag: str, torch_version: str, system: str, machine: str) -> str:
    """What a compiled mmcv depends on, as a folder name: `'cp311-torch2.13.0+cpu-linux-x86_64'`."""
    return f'{python_tag}-torch{torch_version}-{system}-{machine}'


def cache_root(env: Mapping[str, str] = os.environ) -> Path:
    """`$SWIN_POS_DET_CACHE`, else `swin-pos-det` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if env.get('SWIN_POS_DET_CACHE'):
        return Path(env['SWIN_POS_DET_CACHE']).expanduser().absolute()
    base = env.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base).expanduser().absolute() / 'swin-pos-det'
