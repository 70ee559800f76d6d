"""The fused kernel under torch's subsystems, and within attention, in triton's interpreter."""
from __future__ import annotations

import pytest

from .interpreted import run_interpreted


@pytest.mark.slow
def test_in_the_interpreter():
    run_interpreted('interpreted/test_operator.py',
                    'test_window_attention.py::test_every_implementation_equals_the_reference')
