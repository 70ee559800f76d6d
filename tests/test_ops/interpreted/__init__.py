"""Tests in triton's interpreter, in processes of their own: whether it interprets is decided when it is imported."""
from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Tuple

import pytest

TESTS = Path(__file__).parents[1]


def run_interpreted(*tests: str) -> None:
    """Run tests, named relative to tests/test_ops, with the interpreter; all of them must run and pass."""
    pytest.importorskip('triton', reason='triton is not installed (requirements/triton.txt)')
    if version_of('triton') < (3, 7) and version_of('numpy') >= (2, 4):
        pytest.skip("the interpreter of triton before 3.7 fails with numpy 2.4 and newer")
    found = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider',
                            *(str(TESTS / test) for test in tests)],
                           cwd=TESTS.parents[1], env=dict(os.environ, TRITON_INTERPRET='1'), text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert found.returncode == 0, found.stdout[-8000:]
    assert 'skipped' not in found.stdout.splitlines()[-1], found.stdout[-8000:]


def version_of(package: str) -> Tuple[int, ...]:
    """Return the first two numbers of an installed package's version."""
    return tuple(int(part) for part in import_module(package).__version__.split('.')[:2])
