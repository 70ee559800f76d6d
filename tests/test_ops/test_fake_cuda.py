"""Run the tests on fake CUDA tensors in a process of their own; see tests/fake_cuda.py."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_cuda import PROCESS

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_on_fake_cuda():
    files = [TESTS / 'test_models/test_devices.py', TESTS / 'test_ops/test_triton.py']
    found = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-m', 'fake_cuda', *files],
                           cwd=TESTS.parent, env={**os.environ, PROCESS: '1'}, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
    assert found.returncode == 0, found.stdout[-8000:]
    passed = re.search(r'(\d+) passed', found.stdout)
    if not passed:
        pytest.skip('this torch has no fake CUDA tensors without a GPU')
    assert int(passed[1]) > 20 and 'skipped' not in found.stdout.splitlines()[-1], found.stdout[-8000:]
