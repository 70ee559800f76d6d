"""A user's mistakes, told in one line; bugs keep their traceback."""
from __future__ import annotations

import contextlib
import linecache
from collections.abc import Iterator


class UserError(Exception):
    """Something on the command line or in a config is wrong; the message says what, and what would be right."""


@contextlib.contextmanager
def telling_mistakes() -> Iterator[None]:
    """Makes a :class:`UserError` of a setting or file that this package refuses; bugs keep their traceback."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        if _raised_in_this_package(error):
            raise UserError(str(error)) from error
        raise


def _raised_in_this_package(error: BaseException | None) -> bool:
    """Whether ``error``, or one in the chain that led to it, comes from a ``raise`` in this package.

    A ``TypeError`` that Python itself raises in a line of this package is a bug of ours and not meant.
    """
    if error is None:
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_globals.get('__name__', '').startswith('swin_pos_det.'):
        line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        if line.lstrip().startswith('raise '):
            return True
    return _raised_in_this_package(error.__context__)
