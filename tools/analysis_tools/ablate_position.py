"""Run the ablation of position schemes on the embedded data set: tables, a JSON file, pictures."""
import argparse
import sys
from pathlib import Path

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import ABLATED_SCHEMES, ABLATION_RECIPES
from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Compare position schemes in training, and at windows and resolutions that it was not '
                    'trained at? Trains the nano demo with every scheme and several seeds, and evaluates each. Hours '
                    'on a CPU; run it again after an interruption and it resumes where it stopped.',
        epilog='Example: python tools/analysis_tools/ablate_position.py --recipe short --seeds 0 1 2')
    parser.add_argument('--recipe', choices=ABLATION_RECIPES, default='demo',
                        help='how all are trained: demo, as the demo is; short, at 128 px for 2 epochs, to see '
                             'something within hours (default: %(default)s)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='where everything goes (default: work_dirs/ablate_position_<recipe>)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N',
                        help='one training of each scheme per seed (default: 0 1 2)')
    parser.add_argument('--schemes', nargs='+', default=list(ABLATED_SCHEMES), metavar='NAME',
                        help=f'which of {", ".join(ABLATED_SCHEMES)}, or any other name that position= takes '
                             '(default: these)')
    parser.add_argument('--jobs', type=count, default=1, metavar='N',
                        help='runs at once, the cores shared out among them (default: 1)')
    parser.add_argument('--report-only', action='store_true', help='run nothing, report what has been measured')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                        help="settings of every run's config to override")
    add_traceback_argument(parser)
    return parser


def ablate(args: argparse.Namespace) -> None:
    """Run and report the ablation."""
    from swin_pos_det.analysis.studies.position_ablation import RECIPES, sweeps, trainings
    from swin_pos_det.analysis.studies.study import collect, run_study

    folder = Path(args.work_dir or f'work_dirs/ablate_position_{args.recipe}').absolute()
    recipe = RECIPES[args.recipe]
    todo = sweeps(args.schemes, recipe)
    try:
        if not args.report_only:
            run_study(folder, args.seeds, args.jobs, trainings(args.schemes, recipe), todo, args.cfg_options)
    except RuntimeError as error:
        raise UserError(f'{error}; run the same command again to go on') from error
    except ValueError as error:
        raise UserError(str(error)) from error
    rows = collect(folder, args.seeds, args.schemes, todo)
    if not rows:
        raise UserError(f'{folder} holds no evaluation of seeds {args.seeds}')
    report(rows, recipe, folder)


def report(rows, recipe, folder: Path) -> None:
    """Print the tables, and write the JSON file and the pictures."""
    from swin_pos_det.analysis.studies.position_ablation import (
        REFERENCE,
        markdown_against,
        markdown_lost,
        markdown_schemes,
        plot_schemes,
    )
    from swin_pos_det.checkpoints import write_json

    for metric, name in (('bbox_mAP', 'box AP'), ('segm_mAP', 'mask AP')):
        print(f'\n{name}, mean ± standard deviation over seeds; the first column is the setting of the training\n')
        print(markdown_schemes(rows, recipe, metric))
        print(f'\n{name} more than {REFERENCE!r}, within a seed\n')
        print(markdown_against(rows, recipe, metric=metric))
        print(f'\n{name}, change of the same weights from the setting of the training\n')
        print(markdown_lost(rows, recipe, metric))
    write_json(rows, folder / 'ablation.json', indent=1)
    pictures = [folder / f'ablation_{name}.png' for name in ('box', 'mask')]
    for path, metric in zip(pictures, ('bbox_mAP', 'segm_mAP')):
        plot_schemes(rows, recipe, path, metric)
    print('\n' + '\n'.join(map(str, [folder / 'ablation.json', *pictures])))


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(ablate, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
