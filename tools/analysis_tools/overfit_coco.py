"""Over-fit a few COCO images and print the AP on the same images, to check that the whole pipeline learns."""
import argparse
import os.path as osp
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.arguments import add_common_arguments
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError

REPO = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIG = osp.join(REPO, 'configs', 'swin_pos', 'mask-rcnn_swin-pos-nano-p4-w7_fpn_overfit_coco.py')


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Train on a few images of COCO train2017 and evaluate on the same ones. A pipeline that works '
                    'reaches a high AP; the number says nothing about other images.',
        epilog='Example: COCO_ROOT=/data/coco python tools/analysis_tools/overfit_coco.py')
    parser.add_argument('config', nargs='?', default=CONFIG, help='config (default: %(default)s)')
    parser.add_argument('--images', type=count, default=16, metavar='N', help='how many images (default: %(default)s)')
    parser.add_argument('--work-dir', default='work_dirs/overfit_coco', metavar='DIR',
                        help='where results go (default: %(default)s)')
    add_common_arguments(parser)
    return parser


def overfit(args: argparse.Namespace) -> None:
    """Pick the images, train and evaluate."""
    from swin_pos_det.analysis.runs.overfit import use_subset, write_subset
    from swin_pos_det.cli.runner import add_hook, build_runner, check_data, load_config

    cfg = load_config(args)
    check_data(cfg, ['train'])
    dataset = cfg.train_dataloader.dataset.dataset
    subset = osp.join(cfg.work_dir, f'first{args.images}.json')
    try:
        objects = write_subset(osp.join(dataset.data_root, dataset.ann_file), subset, args.images)
    except ValueError as error:
        raise UserError(f'--images: {error}') from error
    use_subset(cfg, subset)
    add_hook(cfg, type='mmdet.TrainingGuardHook')
    runner = build_runner(cfg)
    runner.train()
    metrics = runner.val_loop.run()
    print(f'{args.images} images with {objects} annotations, {runner.iter} iterations: '
          f'box AP {metrics["coco/bbox_mAP"]:.3f}, mask AP {metrics["coco/segm_mAP"]:.3f} on the same images')


if __name__ == '__main__':
    sys.exit(run_cli(overfit, get_parser()))
