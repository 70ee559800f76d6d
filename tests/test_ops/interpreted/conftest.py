"""Tests in triton's interpreter. See :func:`tests.test_ops.interpreted.run_interpreted`."""
from __future__ import annotations

import pytest

from swin_pos_det.ops.triton.support import INTERPRETED

collect_ignore_glob = [] if INTERPRETED else ['test_*.py']


@pytest.fixture(autouse=True, scope='session')
def _bfloat16_products() -> None:
    """Mend the interpreter's ``tl.dot``: it keeps bfloat16 as uint16, and multiplies these numbers (triton 3.9)."""
    import triton.language as tl
    from triton.runtime import interpreter

    create_dot = interpreter.InterpreterBuilder.create_dot

    def exact(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
        data = interpreter._convert_float(handle.data, tl.bfloat16, tl.float32, None).view('float32')
        return interpreter.TensorHandle(data, tl.float32)

    def create_exact_dot(self, a, b, *rest):
        both = (exact(a), exact(b)) if a.dtype.scalar == tl.bfloat16 else (a, b)
        return create_dot(self, *both, *rest)

    interpreter.InterpreterBuilder.create_dot = create_exact_dot
