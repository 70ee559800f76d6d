"""Check a COCO annotation file and its images, count its objects, and write a repaired copy."""
import argparse
import os.path as osp
import sys

from rich.console import Console
from rich.markup import escape

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Check everything about a COCO annotation file that MMDetection would drop, shift, scramble or '
                    'never match without warning, as train.py and test.py do. The exit status is 1 if something is '
                    'wrong; with --fix, if something is wrong with the repaired copy.',
        epilog='Example: python tools/analysis_tools/check_coco.py train.json images/ --sheet sheet.png --fix new.json')
    parser.add_argument('annotations', metavar='ANNOTATIONS', help='COCO annotation file')
    parser.add_argument('images', metavar='IMAGES', nargs='?', help='folder of its images')
    parser.add_argument('--fix', metavar='OUT', help='write a repaired copy, and print the changes')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='with --fix: bring the categories into this order (default: by id)')
    parser.add_argument('--sheet', metavar='PNG', help='with IMAGES: draw the boxes of 24 images into one picture')
    parser.add_argument('--statistics', metavar='PNG',
                        help='plot objects and images of each class and the sizes of objects')
    add_traceback_argument(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Check as the command line says; return 1 if something is wrong."""
    from swin_pos_det.analysis.annotation_sheet import write_annotation_sheet
    from swin_pos_det.analysis.statistics_plot import plot_statistics
    from swin_pos_det.checkpoints.atomic import check_writable, write_json
    from swin_pos_det.cli.survey_table import print_survey
    from swin_pos_det.data.annotation_file import read_json
    from swin_pos_det.data.objects import Objects
    from swin_pos_det.data.repair import repair
    from swin_pos_det.data.statistics import survey
    from swin_pos_det.errors import MissingFileError, SettingError

    if args.images is not None and not osp.isdir(args.images):
        raise MissingFileError(f'there is no folder {args.images}')
    if args.sheet and args.images is None:
        raise SettingError('--sheet needs IMAGES, the folder of the images')
    if args.classes and not args.fix:
        raise SettingError('--classes needs --fix, which writes the categories in that order')
    if args.fix and osp.realpath(args.fix) == osp.realpath(args.annotations):
        raise SettingError(f'--fix {args.fix} is the file itself; give the repaired copy another name')
    if args.fix:
        check_writable(args.fix)
    content, console = read_json(args.annotations), Console()
    found = survey(content, args.annotations, args.images)
    wrong = print_survey(found, console)
    if args.fix:
        content, changes = repair(content, args.annotations, args.images, args.classes)
        write_json(content, args.fix)
        for change in changes:
            console.print(f'[green]repaired[/] {escape(change)}', soft_wrap=True)
        what = 'is the repaired copy' if changes else 'is a copy: nothing had to be repaired'
        console.print(f'{escape(args.fix)} {what}', soft_wrap=True)
        found = survey(content, args.fix, args.images)
        wrong = print_survey(found, console)
    if args.sheet and found.classes:
        console.print(f'{write_annotation_sheet(content, args.images, args.sheet)} shows the boxes', soft_wrap=True)
    if args.statistics and found.classes:
        path = plot_statistics({osp.basename(args.annotations): Objects(content)}, args.statistics)
        console.print(f'{path} shows the statistics', soft_wrap=True)
    return int(wrong)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
