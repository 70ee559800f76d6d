"""Tells what a Swin checkpoint is: whose, which variant, window, image size, classes, and whether it fits a config."""
import argparse
import os.path as osp
import sys

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError
from swin_pos_det.type_names import type_name


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Tell what a Swin checkpoint is, from its keys and shapes alone.',
        epilog='Example: python tools/model_converters/inspect_checkpoint.py swin.pth --config '
               'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py')
    parser.add_argument('checkpoint', metavar='FILE', help='a .pth, .bin or .safetensors file')
    parser.add_argument('--config', help='a config whose backbone it should fit')
    parser.add_argument('--details', action='store_true', help='with --config: what becomes of every parameter')
    add_traceback_argument(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Inspect as the command line says."""
    from swin_pos_det.checkpoints import inspect_checkpoint, load_checkpoint_file

    checkpoint = load_checkpoint_file(args.checkpoint, map_location='cpu')
    try:
        found = inspect_checkpoint(checkpoint)
    except ValueError as error:
        raise UserError(f'{args.checkpoint}: {error}') from error
    table = Table('', osp.basename(args.checkpoint), show_lines=False)
    for row in found.rows():
        table.add_row(*row)
    Console().print(table)
    if args.config:
        _print_fit(checkpoint, args)


def _print_fit(checkpoint, args: argparse.Namespace) -> None:
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from swin_pos_det.checkpoints import incompatibilities

    if not osp.isfile(args.config):
        raise UserError(f'config {args.config} does not exist')
    settings = dict(Config.fromfile(args.config).model.backbone, init_cfg=None, pretrained=None)
    kind = type_name(settings)
    if kind not in ('SwinPosTransformer', 'SwinPosTransformerV2'):
        raise UserError(f'the backbone of {args.config} is a {kind}, not a SwinPosTransformer or SwinPosTransformerV2')
    backbone = MODELS.build(dict(settings, type=f'mmdet.{kind}'))
    problem = incompatibilities(checkpoint, backbone)
    if problem:
        raise UserError(f'{args.checkpoint} does not fit {args.config}: {problem}')
    print(f'fits {args.config}:')
    print(backbone.load_report.details() if args.details else '\n'.join(backbone.load_report.lines()))


if __name__ == '__main__':
    sys.exit(run_cli(run, get_parser()))
