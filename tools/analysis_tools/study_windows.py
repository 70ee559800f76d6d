"""Run the study of windows and resolutions on the embedded data set: tables, a CSV file, a picture."""
import argparse
import sys
from pathlib import Path

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import STUDY_TRAININGS
from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError

KEPT = [('window7', 'fixed'), ('window7', 'fit'), ('elastic', 'fixed'), ('elastic', 'fit')]
DRAWN = [*KEPT, ('elastic-ms', 'fit')]


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Compare trainings and settings at other windows and resolutions. Trains the '
                    'nano demo in several ways with several seeds, and evaluates each over windows and image scales. '
                    'Hours on a CPU; run it again after an interruption and it resumes where it stopped.',
        epilog='Example: python tools/analysis_tools/study_windows.py --seeds 0 1 2 --jobs 2')
    parser.add_argument('--work-dir', default='work_dirs/study_windows', metavar='DIR',
                        help='where everything goes (default: %(default)s)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N',
                        help='one training of each kind per seed (default: 0 1 2)')
    parser.add_argument('--trainings', nargs='+', choices=STUDY_TRAININGS, default=list(STUDY_TRAININGS),
                        metavar='NAME', help=f'which of {", ".join(STUDY_TRAININGS)} (default: all)')
    parser.add_argument('--jobs', type=count, default=1, metavar='N',
                        help='runs at once, the cores shared out among them (default: 1)')
    parser.add_argument('--report-only', action='store_true', help='run nothing, report what has been measured')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help="settings of every run's config to override")
    add_traceback_argument(parser)
    return parser


def study(args: argparse.Namespace) -> None:
    """Run and report the study."""
    from swin_pos_det.analysis.studies.study import collect, run_study
    from swin_pos_det.analysis.studies.window_study import SWEEPS, TRAININGS

    folder = Path(args.work_dir).absolute()
    try:
        if not args.report_only:
            run_study(folder, args.seeds, args.jobs, {name: TRAININGS[name] for name in args.trainings}, SWEEPS,
                      args.cfg_options)
    except RuntimeError as error:
        raise UserError(f'{error}; run the same command again to go on') from error
    except ValueError as error:
        raise UserError(str(error)) from error
    rows = collect(folder, args.seeds, args.trainings, SWEEPS)
    if not rows:
        raise UserError(f'{folder} holds no evaluation of seeds {args.seeds}')
    report(rows, folder)


def report(rows: list, folder: Path) -> None:
    """Print the tables, and write the CSV file and the picture."""
    from swin_pos_det.analysis.studies.study import SCALES, markdown_table, write_csv
    from swin_pos_det.analysis.studies.window_study import markdown_kept, markdown_over_scales, plot_study

    for scale in SCALES:
        print(f'\nbox AP, images at {scale:g} x the training size, by nominal window\n')
        print(markdown_table(rows, scale))
    print(f'\nbox AP, average over scales {", ".join(f"{scale:g}" for scale in SCALES)}\n')
    print(markdown_over_scales(rows))
    measured = {(row['training'], row['setting']) for row in rows}
    for training, setting in (pair for pair in KEPT if pair in measured):
        print('\nbox AP kept at other windows, images of the training size\n')
        print(markdown_kept(rows, training, setting))
    write_csv(rows, folder / 'study.csv')
    plot_study(rows, folder / 'study.png', DRAWN)
    print(f'\n{folder / "study.csv"}\n{folder / "study.png"}')


if __name__ == '__main__':
    sys.exit(run_cli(study, get_parser()))
