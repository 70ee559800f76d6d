"""The fused kernel's results in triton's interpreter. In a file of its own, so that two workers share these tests."""
from __future__ import annotations

import pytest

from .interpreted import run_interpreted


@pytest.mark.slow
def test_in_the_interpreter():
    run_interpreted('interpreted/test_kernels.py')
