"""Arguments that several command lines have."""
from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from ..choices import HALF_DTYPES

_A_DICT = re.compile(r"""[\s\[("']*(\{|dict\()""")


class _Options(argparse.Action):
    """Read ``--cfg-options`` as MMEngine's ``DictAction`` does, with argparse's usage line for a mistyped pair."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        from mmengine.config import DictAction
        for pair in values:
            if '=' not in pair:
                raise argparse.ArgumentError(self, f'{pair!r} is not of the form key=value')
            key, _, value = pair.partition('=')
            if _A_DICT.match(value):
                raise argparse.ArgumentError(self, f'{pair!r}: a dict is not allowed here; set its keys one by one, '
                                                   f'{key}.KEY=VALUE, or write it into a config file')
        try:
            DictAction(self.option_strings, self.dest, self.nargs)(parser, namespace, values, option_string)
        except (ValueError, AssertionError, SyntaxError) as error:
            raise argparse.ArgumentError(self, f'{" ".join(values)}: {error}') from error


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a tool that runs a config; their names and meaning are MMDetection's."""
    add_config_arguments(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how the processes of a distributed run were started (default: none, one process); '
                             'tools/dist_*.sh and tools/slurm_*.sh set it')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help='set by launchers: the number of this process on its machine')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every tool that reads a config: its overrides, and ``--traceback``."""
    parser.add_argument('--cfg-options', nargs='+', action=_Options, metavar='KEY=VALUE',
                        help='settings of the config to override, such as train_cfg.max_epochs=3 or '
                             '\'data_preprocessor.mean="[0,0,0]"\' (quote lists, no blanks inside)')
    add_traceback_argument(parser)


def add_speed_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a tool that runs a detector: ``--half`` and ``--cuda-graphs``."""
    parser.add_argument('--half', nargs='?', const=True, default=False, choices=HALF_DTYPES, metavar='DTYPE',
                        help='backbone and neck in half precision: float16 or bfloat16 (default of DTYPE: float16 on a '
                             'GPU, bfloat16 on a CPU)')
    parser.add_argument('--cuda-graphs', action='store_true',
                        help='replay backbone and neck from CUDA graphs, one for each padded size that comes again: '
                             'same results, less waiting for the host')


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument of every tool: ``--traceback``."""
    parser.add_argument('--traceback', action='store_true',
                        help='show where an error came from, also for those that are reported in one line otherwise')


def note_unused(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Say on stderr which of some arguments were given and have no effect.

    Args:
        parser: of the tool.
        args: what it has read.
        names: as in ``args``.
        why: such as ``'without --confusion-matrix'``.
    """
    given = [f'--{name.replace("_", "-")}' for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        print(f'note: {" and ".join(given)} {"has" if len(given) == 1 else "have"} no effect {why}', file=sys.stderr)
