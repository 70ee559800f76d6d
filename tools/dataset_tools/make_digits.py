"""Make the embedded data set, handwritten digits on photographs, at any size, or draw a preview.

    python tools/dataset_tools/make_digits.py                           # 400 + 100 images, in the configs' folder
    python tools/dataset_tools/make_digits.py --out data/digits --num-train 5000
    python tools/dataset_tools/make_digits.py --preview digits.png
"""
from __future__ import annotations

import argparse
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, count_from_0
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', metavar='DIR',
                        help='folder of the data set; pass it to a config as data_root of its datasets. Default: a '
                             'folder below $SWIN_POS_DET_DATA, else in the cache folder, where the configs look')
    parser.add_argument('--num-train', type=count, metavar='N', help='training images (default: 400)')
    parser.add_argument('--num-val', type=count, metavar='N', help='validation images (default: 100)')
    parser.add_argument('--seed', type=count_from_0, metavar='N', help='the same seed makes the same data (default: 0)')
    parser.add_argument('--force', action='store_true', help='make an existing data set of digits again')
    parser.add_argument('--preview', metavar='PNG',
                        help='also draw a contact sheet: each image without and with its boxes and masks')
    parser.add_argument('--preview-split', choices=('train', 'val'), default='val', help='default: %(default)s')
    parser.add_argument('--preview-images', type=count, default=24, metavar='N', help='default: %(default)s')
    add_traceback_argument(parser)
    return parser


def make(args: argparse.Namespace) -> None:
    """Make the data set, and the preview if requested."""
    from swin_pos_det.data.digits.on_photos import make_digits_on_photos
    from swin_pos_det.data.digits.preview import preview_sheet
    from swin_pos_det.visualization import save_picture

    root = make_digits_on_photos(args.out, args.num_train, args.num_val, args.seed, force=args.force)
    print(f'data set: {root}')
    if args.preview:
        sheet = preview_sheet(root, args.preview_split, args.preview_images)
        print(f'preview: {save_picture(sheet, args.preview)}')


def main(argv: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(make, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
