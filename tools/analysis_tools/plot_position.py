"""Draw a backbone's position: biases over offsets, attention distances of heads, and the attention of a point."""
import argparse
import sys
from pathlib import Path

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, window_size
from swin_pos_det.cli.arguments import add_common_arguments, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Draw the position of a backbone as PNGs in the work dir: bias.png and bias_stageN.png '
                    '(the bias of every head over the offset of key from query), bias_windows.png (the same at '
                    'another window, resampled in several ways), distance.png (attention distance of each head) and '
                    'attention.png (attention of the token at a point). For rotary schemes bias*.png show the '
                    'cosine between equal contents; absolute embeddings have absolute.png.',
        epilog='Example: python tools/analysis_tools/plot_position.py '
               'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py work_dirs/demo/epoch_4.pth '
               '--image photo.jpg --point 120 80')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', nargs='?',
                        help="the .pth file (default: what the config's init_cfg names, else random weights)")
    parser.add_argument('--window', type=window_size, default=12, metavar='W',
                        help='the window to resample to: 12, or 7,14 for (h, w) (default: 12)')
    parser.add_argument('--image', metavar='FILE',
                        help="the image to attend to (default: the first of the config's test set)")
    parser.add_argument('--point', nargs=2, type=float, metavar=('X', 'Y'),
                        help="pixel of the image whose attention is drawn (default: the image's middle)")
    parser.add_argument('--num-images', type=count, default=8, metavar='N',
                        help='images of the test set to average attention distances over, when there is no --image '
                             '(default: 8)')
    parser.add_argument('--work-dir', metavar='DIR', help='where results go (default: work_dirs/<config name>)')
    add_common_arguments(parser)
    return parser


def plot(args: argparse.Namespace) -> None:
    """Draw the pictures and print their names."""
    from swin_pos_det.analysis.position.report import draw_position
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import check_data, load_config

    cfg = load_config(args)
    meta = {} if args.checkpoint is None else check_checkpoint(args.checkpoint)
    if args.image is None:
        check_data(cfg, ['test'], meta)
    else:
        note_unused(get_parser(), args, ['num_images'], 'with --image')
    window = (args.window, args.window) if isinstance(args.window, int) else args.window
    try:
        pictures = draw_position(cfg, args.checkpoint, Path(cfg.work_dir), window, args.image, args.point,
                                 args.num_images)
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    print('\n'.join(map(str, pictures)))


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(plot, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
