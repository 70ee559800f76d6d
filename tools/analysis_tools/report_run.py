"""Report on a training: metrics.json, curves.png, pictures of predictions, and a short table."""
import argparse
import sys
from pathlib import Path

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count_from_0, fraction
from swin_pos_det.cli.arguments import add_traceback_argument, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Report on the newest training in a work dir. Writes metrics.json, curves.png (losses and AP), '
                    'predictions/*.png (ground truth beside predictions) and predictions.png (all of them) into it; '
                    'with --html also report.html, one page to send: curves, AP by class and by size, confusions, and '
                    'the best and worst images.',
        epilog='Example: python tools/analysis_tools/report_run.py work_dirs/demo')
    parser.add_argument('work_dir', type=Path, metavar='WORK_DIR', help='the work dir of tools/train.py')
    parser.add_argument('--checkpoint', type=Path, metavar='FILE',
                        help='weights for the pictures (default: the last checkpoint in the work dir)')
    parser.add_argument('--num-images', type=count_from_0, default=12, metavar='N',
                        help='validation images to draw, spread over the set; 0 for none (default: 12)')
    parser.add_argument('--score-thr', '--score-threshold', dest='score_threshold', type=fraction, default=0.3,
                        metavar='S', help='leave out predictions below this score (default: 0.3)')
    parser.add_argument('--html', action='store_true',
                        help='also evaluate the checkpoint on the validation data, and write report.html, which needs '
                             'no other file')
    parser.add_argument('--results', type=Path, metavar='FILE',
                        help='for --html: detections on the validation data, of tools/test.py --out FILE.json, '
                             'instead of running the detector')
    add_traceback_argument(parser)
    return parser


def report(args: argparse.Namespace) -> None:
    """Write the files and print the table."""
    from swin_pos_det.cli.run_report import report_run

    if not args.html:
        note_unused(get_parser(), args, ['results'], 'without --html')
    try:
        report_run(args.work_dir, args.checkpoint, args.num_images, args.score_threshold, args.html, args.results)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(report, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
