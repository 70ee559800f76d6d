"""Count the tokens that windows process on a data set's images: the cost of padding, and the saving of 'fit'."""
import argparse
import sys

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count as count_type
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Count the tokens that a Swin-T's windows process on the images of a COCO annotation file, resized "
                    'as for testing, one image a batch.',
        epilog='Example: python tools/analysis_tools/count_window_tokens.py $COCO_ROOT/annotations/'
               'instances_val2017.json')
    parser.add_argument('annotations', nargs='+', metavar='FILE', help='COCO annotation files')
    parser.add_argument('--windows', nargs='+', type=count_type, default=[7, 8, 10, 12, 14, 16], metavar='N',
                        help='nominal windows (default: 7 8 10 12 14 16)')
    parser.add_argument('--scale', nargs=2, type=count_type, default=[1333, 800], metavar=('LONG', 'SHORT'),
                        help='of the keep-ratio resize (default: 1333 800)')
    add_traceback_argument(parser)
    return parser


def count(args: argparse.Namespace) -> None:
    """Count as the command line says."""
    from swin_pos_det.analysis.studies.window_tokens import resized_images, token_table

    images = []
    for path in args.annotations:
        try:
            images += resized_images(path, tuple(args.scale))
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}') from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is no COCO annotation file ({type(error).__name__}: {error})') from error
    if not images:
        raise UserError(f'no images are in {", ".join(args.annotations)}')
    table = Table('window', "padding of 'fixed'", "padding of 'fit'", "tokens saved by 'fit'", 'never more',
                  title=f'{len(images)} images at {args.scale[0]}x{args.scale[1]}')
    for row in token_table(images, args.windows):
        table.add_row(str(row['window']), f'{row["fixed"]:.1%}', f'{row["fit"]:.1%}', f'{row["saved"]:.1%}',
                      'yes' if row['never_more'] else 'NO')
    Console().print(table)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(count, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
