"""Make the embedded data set, handwritten digits on photographs, at any size, or look at it.

    python tools/dataset_tools/make_digits.py                           # 400 + 100 images, where the configs look
    python tools/dataset_tools/make_digits.py --out data/digits --num-train 5000
    python tools/dataset_tools/make_digits.py --preview digits.png
"""
from __future__ import annotations

import argparse
import sys

DEFER_REGISTRATION = True  # nothing of mmdet is needed


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', metavar='DIR',
                        help='folder of the data set; pass it to a config as data_root of its datasets. Default: a '
                             'folder below $SWIN_POS_DET_DATA, else in the cache folder, where the configs look')
    parser.add_argument('--num-train', type=int, metavar='N', help='training images (default: 400)')
    parser.add_argument('--num-val', type=int, metavar='N', help='validation images (default: 100)')
    parser.add_argument('--seed', type=int, metavar='N', help='the same seed makes the same data (default: 0)')
    parser.add_argument('--force', action='store_true', help='remake a data set of digits that is already there')
    parser.add_argument('--preview', metavar='PNG',
                        help='also draw a contact sheet: each image as it is and with its boxes and masks')
    parser.add_argument('--preview-split', choices=('train', 'val'), default='val', help='default: %(default)s')
    parser.add_argument('--preview-images', type=int, default=24, metavar='N', help='default: %(default)s')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    args = parse_args(argv)
    from swin_pos_det.data.digits.on_photos import make_digits_on_photos
    from swin_pos_det.data.digits.preview import preview_sheet
    from swin_pos_det.visualization import save_picture

    try:
        root = make_digits_on_photos(args.out, args.num_train, args.num_val, args.seed, force=args.force)
        print(f'data set: {root}')
        if args.preview:
            sheet = preview_sheet(root, args.preview_split, args.preview_images)
            print(f'preview: {save_picture(sheet, args.preview)}')
    except (OSError, ValueError, ImportError) as error:
        print(f'make_digits.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
