"""Over-fits a few COCO images and prints the AP on those same images: does the whole pipeline learn?"""
import argparse
import importlib.util
import os.path as osp
import sys

REPO = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
if importlib.util.find_spec('swin_pos_det') is None:  # run from a clone without installing it
    sys.path.insert(0, REPO)

import swin_pos_det  # noqa: F401 - registers the backbone
from swin_pos_det.analysis.runs.overfit import use_subset, write_subset
from swin_pos_det.cli.argument_types import count
from swin_pos_det.cli.errors import UserError
from swin_pos_det.cli.runner import add_common_arguments, build_runner, check_data, load_config, run_cli

CONFIG = osp.join(REPO, 'configs', 'swin_pos', 'mask-rcnn_swin-pos-nano-p4-w7_fpn_overfit_coco.py')


def get_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
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
    """Picks the images, trains and evaluates."""
    cfg = load_config(args)
    check_data(cfg, ['train'])
    dataset = cfg.train_dataloader.dataset.dataset
    subset = osp.join(cfg.work_dir, f'first{args.images}.json')
    try:
        objects = write_subset(osp.join(dataset.data_root, dataset.ann_file), subset, args.images)
    except ValueError as error:
        raise UserError(f'--images: {error}') from error
    use_subset(cfg, subset)
    runner = build_runner(cfg)
    runner.train()
    metrics = runner.val_loop.run()
    print(f'{args.images} images with {objects} annotations, {runner.iter} iterations: '
          f'box AP {metrics["coco/bbox_mAP"]:.3f}, mask AP {metrics["coco/segm_mAP"]:.3f} on the same images')


if __name__ == '__main__':
    sys.exit(run_cli(overfit, get_parser()))
