"""Run a command line: parse it, register the package, and print a user's errors in one line."""
from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from typing import Any

import swin_pos_det

from ..errors import UserError
from .errors import user_errors

# Errors of the system when it fails to write files.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR,
                 errno.EEXIST)


def run_cli(command: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser,
            argv: Sequence[str] | None = None) -> int:
    """Parse ``argv``, run ``command``, and print a user's error as one line on stderr.

    Args:
        command: does the work; gets the parsed arguments. It may return an exit status of its own. The package's parts
            are registered before it is called.
        parser: of the tool; must have ``--traceback``.
        argv: default: the command line.

    Returns:
        The exit status: the command's or 0, or 1 after a user's error. Any other exception passes through with its
        traceback.
    """
    args = parser.parse_args(argv)
    swin_pos_det.register()
    try:
        with user_errors():
            return int(command(args) or 0)
    except UserError as error:
        if args.traceback:
            raise
        return _report(str(error))
    except OSError as error:
        if args.traceback or error.errno not in _CANNOT_WRITE:
            raise
        return _report(f'{error.filename or "a file of the work dir"}: {error.strerror}. Checkpoints that are complete '
                       'stay as they are')


def _report(error: str) -> int:
    print(f'error: {" ".join(error.split())}', file=sys.stderr)
    return 1
