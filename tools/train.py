"""Trains a detector. Same arguments and behaviour as MMDetection's tools/train.py."""
import argparse
import sys
from collections.abc import Sequence

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, share
from swin_pos_det.cli.arguments import add_common_arguments
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Train a detector. Checkpoints, logs and the full config go to the work dir.',
        epilog='Example: python tools/train.py configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py. For '
               'COCO configs, set the environment variable COCO_ROOT to the folder with annotations/, train2017/, '
               'val2017/.')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='where results go (default: work_dir of the config, else work_dirs/<config name>)')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: float16 with loss scaling on a GPU, bfloat16 on the CPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help="scale the learning rate with the total batch size, from the config's base_batch_size")
    parser.add_argument('--ema', nargs='?', type=share, const=2e-4, metavar='MOMENTUM',
                        help='evaluate and save an exponential moving average of the weights, to which an iteration '
                             'adds MOMENTUM times its weights (default: 0.0002)')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on with a training that was stopped: from CHECKPOINT, or without a name from the '
                             'last one in the work dir')
    parser.add_argument('--early-stop', type=count, metavar='N',
                        help='stop when N evaluations in a row have not raised the best value of the metric of '
                             'save_best (of the AP of masks, else of boxes, if that is not set or auto)')
    parser.add_argument('--classwise', action='store_true', help='report AP by class in each evaluation')
    parser.add_argument('--val-pictures', nargs='?', type=count, const=8, metavar='N',
                        help='draw N validation images at each evaluation, annotations beside predictions (default: '
                             '8), into vis_data/vis_image of the work dir, and into the viewers below')
    parser.add_argument('--tensorboard', action='store_true', help='also log to TensorBoard, into the work dir')
    parser.add_argument('--wandb', action='store_true', help='also log to Weights & Biases')
    parser.add_argument('--allow-nonfinite', action='store_true',
                        help='train on when a loss or a weight is NaN or infinite (default: stop, before the last good '
                             'checkpoint is replaced)')
    add_common_arguments(parser)
    return parser


def scale_learning_rate(cfg) -> None:
    """Turn on MMEngine's linear scaling of the learning rate."""
    setting = cfg.get('auto_scale_lr')
    if not setting or 'enable' not in setting or 'base_batch_size' not in setting:
        raise UserError('--auto-scale-lr needs auto_scale_lr = dict(enable=False, base_batch_size=16) in the config, '
                        f'which has auto_scale_lr = {setting}')
    setting.enable = True


def train(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Train as the command line says; return the exit status."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    from swin_pos_det.cli.following import follow_training
    from swin_pos_det.cli.resuming import train_config
    from swin_pos_det.cli.runner import add_hook, load_config
    from swin_pos_det.engine.amp import use_mixed_precision

    setup_cache_size_limit_of_dynamo()
    cfg = load_config(args)
    use_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        scale_learning_rate(cfg)
    if args.ema is not None:
        add_hook(cfg, type='EMAHook', momentum=args.ema)
    follow_training(cfg, args)
    return train_config(cfg, argv, args.resume, args.allow_nonfinite)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return run_cli(lambda args: train(args, argv), get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
