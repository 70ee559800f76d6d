"""Fine-tune a detector on a folder of images and annotations: checks, config, training, report."""
import argparse
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_config_arguments, note_unused
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Fine-tune a detector on data of your own. Reads COCO, YOLO and Pascal VOC folders, checks them, '
                    'prints and draws their statistics, picks the image size and the scale of the anchors, and writes '
                    'DIR/config.py, a config for tools/train.py. Then trains into DIR/run with the best checkpoint '
                    'kept and early stopping, and reports as report_run.py does.',
        epilog='Example: python tools/finetune.py data/pets --out work_dirs/pets')
    parser.add_argument('data', metavar='DATA',
                        help='folder in the layout of COCO, Roboflow, YOLO or Pascal VOC; or a COCO file, of which a '
                             'fifth of the images becomes the validation; or a data.yaml of YOLO')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for everything that is written')
    parser.add_argument('--config', metavar='NAME',
                        help='config to build on: a name of configs/swin_pos, or a file (default: Mask R-CNN with '
                             'Swin-T if all objects have masks, else Faster R-CNN)')
    parser.add_argument('--weights', metavar='FILE',
                        help="weights to start from, file or URL: a detector's, or a classifier's for the backbone "
                             "(default: the config's)")
    parser.add_argument('--epochs', type=count, metavar='N',
                        help='epochs at most (default: about 3000 iterations, but 12 to 100 epochs)')
    parser.add_argument('--batch-size', type=count, default=4, metavar='N', help='images in a step (default: 4)')
    parser.add_argument('--dry-run', action='store_true', help='check the data and write the config only')
    parser.add_argument('--resume', action='store_true', help='continue the training of DIR/config.py')
    add_config_arguments(parser)
    return parser


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_parser()

    def command(args: argparse.Namespace) -> int:
        from swin_pos_det.cli.finetune import finetune

        if args.resume:
            note_unused(parser, args, ('config', 'weights', 'epochs', 'batch_size'), 'with --resume')
        if args.dry_run:
            note_unused(parser, args, ('cfg_options', ), 'with --dry-run: it is for the training, not for the config')
        return finetune(args, argv)

    return run_cli(command, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
