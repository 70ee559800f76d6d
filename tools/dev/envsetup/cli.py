"""The set-up's command line."""
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from .runner import SetupError, fail, say
from .stacks import DEFAULT_TORCH, REPO, STACKS, cache_root
from .steps import Setup, find_problems, is_up_to_date, run_steps

_EPILOG = f'''environment variables:
  TORCH_SPEC          what pip installs as torch ({DEFAULT_TORCH}; a torch that is there already is kept)
  MMCV_FIND_LINKS     further places with prebuilt mmcv wheels, as for pip's --find-links
  MAX_JOBS            compilers at once when mmcv is built
  SWIN_POS_DET_CACHE  the folder for built wheels and locks (~/.cache/swin-pos-det)
A finished set-up returns at once; an interrupted one goes on where it was. To start afresh, delete the folder.'''


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='tools/dev/bootstrap.py', epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Make a virtual environment with torch, mmcv and its operators, mmdet, mmengine and this package.')
    parser.add_argument('--stack', choices=sorted(STACKS), default='openmmlab',
                        help="OpenMMLab's last releases, or the maintained forks (default: %(default)s)")
    parser.add_argument('--venv', type=Path,
                        help='the environment (default: .venv, or .venv-onedl: the stacks cannot share one)')
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Set up; returns the exit status."""
    args = parse_args(arguments)
    stack = STACKS[args.stack]
    # Resolved before anything is looked at: a `..` after a folder that does not exist yet would fool the checks.
    venv = (args.venv or REPO / stack.venv).expanduser().resolve()
    setup = Setup(stack, venv, cache_root(), os.environ.get('TORCH_SPEC') or None)
    try:
        if is_up_to_date(setup):
            say(f'set-up: {venv} is up to date ({stack.name})')
            return 0
        problems = find_problems(setup)
        if problems:
            return fail('cannot start: ' + '; '.join(problems))
        start = time.monotonic()
        say(f'set-up: the {stack.name} stack in {venv}')
        run_steps(setup)
        say(f'set-up: done in {time.monotonic() - start:.0f} s')
    except SetupError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f'cannot go on: {error}')
    except KeyboardInterrupt:
        return fail('interrupted; the same command goes on from here')
    return 0
