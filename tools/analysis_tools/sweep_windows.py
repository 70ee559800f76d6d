"""Evaluate one checkpoint at several windows and image scales: a table, a JSON file and a heat map."""
import argparse
import os.path as osp
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import WINDOW_POLICIES
from swin_pos_det.cli.argument_types import factor, native_or_window
from swin_pos_det.cli.arguments import add_common_arguments
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Evaluate one checkpoint at several windows and image scales. Writes sweep.json and sweep.png into "
                    'the work dir; an interrupted sweep resumes where it stopped.',
        epilog='Example: python tools/analysis_tools/sweep_windows.py CONFIG CHECKPOINT --windows 5 7 10 14 '
               '--scales 0.5 1 2')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='the .pth file to evaluate')
    parser.add_argument('--windows', nargs='+', type=native_or_window, default=[None], metavar='W',
                        help="windows: 7, or 7,14 for (h, w), or 'global', or 'native': the config's (default: native)")
    parser.add_argument('--scales', nargs='+', type=factor, default=[1.], metavar='S',
                        help='factors on the image size of the test pipeline (default: 1)')
    parser.add_argument('--window-policy', '--policy', dest='policy', choices=WINDOW_POLICIES,
                        help="window policy (default: the config's)")
    parser.add_argument('--work-dir', metavar='DIR', help='where results go (default: work_dirs/<config name>)')
    add_common_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Sweep as the command line says."""
    from swin_pos_det.analysis.studies.window_sweep import METRICS, plot_sweep, sweep
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint, check_evaluable
    from swin_pos_det.cli.runner import check_data, load_config

    cfg = load_config(args)
    meta = check_checkpoint(args.checkpoint)
    check_evaluable(args.checkpoint)
    check_data(cfg, ['test'], meta)
    folder = Path(cfg.work_dir)
    try:
        rows = sweep(cfg, args.checkpoint, args.windows, args.scales, folder / 'sweep.json', args.policy,
                     args.cfg_options)
    except ValueError as error:
        raise UserError(str(error)) from error
    plot_sweep(rows, folder / 'sweep.png', osp.basename(args.config))
    table = Table('scale', 'window', *METRICS, title=osp.basename(args.config))
    for row in rows:
        values = [row.get(key) for key in METRICS.values()]
        table.add_row(f'{row["scale"]:g}', row['window'],
                      *('-' if v is None else f'{v:.3f}' if v <= 1 else f'{v:.0f}' for v in values))
    Console().print(table)
    print(f'{folder / "sweep.json"}\n{folder / "sweep.png"}')


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
