"""Draw training images after augmentation, with their annotations, into contact sheets."""
import argparse
import os.path as osp
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_config_arguments
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Draw what a detector learns from: images of train_dataloader as its pipeline gives them, with '
                    'boxes, masks and classes. Writes DIR/sheet_1.png and so on; needs no window.',
        epilog='Example: python tools/analysis_tools/browse_dataset.py '
               'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py --number 24')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--out', metavar='DIR',
                        help='folder of the sheets (default: browse/ in the work dir of the config)')
    parser.add_argument('--number', type=count, default=48, metavar='N',
                        help='images at most, spread evenly over the data set (default: 48)')
    parser.add_argument('--per-sheet', type=count, default=24, metavar='N', help='images of a sheet (default: 24)')
    parser.add_argument('--seed', type=int, default=0, help='of the augmentation (default: 0)')
    add_config_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw as the command line says."""
    from swin_pos_det.analysis.browse import browse
    from swin_pos_det.cli.runner import check_data, load_config

    cfg = load_config(argparse.Namespace(**vars(args), launcher='none', local_rank=0, work_dir=None))
    check_data(cfg, ['train'])
    for sheet in browse(cfg, args.out or osp.join(cfg.work_dir, 'browse'), args.number, args.per_sheet, args.seed):
        print(sheet)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
