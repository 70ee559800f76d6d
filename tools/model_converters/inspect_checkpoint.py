"""Tells what a Swin checkpoint is: whose, which variant, window, image size, classes, and whether it fits a config."""
import argparse
import importlib.util
import os.path as osp
import sys

if importlib.util.find_spec('swin_pos_det') is None:  # run from a clone without installing it
    sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from mmdet.registry import MODELS
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

import swin_pos_det  # noqa: F401 - registers the backbone
from swin_pos_det.checkpoints import inspect_checkpoint, load_checkpoint_file, misfits
from swin_pos_det.cli.errors import UserError
from swin_pos_det.cli.runner import run_cli
from swin_pos_det.type_names import type_name


def get_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Tell what a Swin checkpoint is, from its keys and shapes alone.',
        epilog='Example: python tools/model_converters/inspect_checkpoint.py swin.pth --config '
               'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py')
    parser.add_argument('checkpoint', metavar='FILE', help='a .pth, .bin or .safetensors file')
    parser.add_argument('--config', help='a config whose backbone it should fit')
    parser.add_argument('--details', action='store_true', help='with --config: what becomes of every parameter')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def run(args: argparse.Namespace) -> None:
    """Inspects as the command line says."""
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
    if not osp.isfile(args.config):
        raise UserError(f'config {args.config} does not exist')
    settings = dict(Config.fromfile(args.config).model.backbone, init_cfg=None, pretrained=None)
    kind = type_name(settings)
    if kind not in ('SwinPosTransformer', 'SwinPosTransformerV2'):
        raise UserError(f'the backbone of {args.config} is a {kind}, not a SwinPosTransformer or SwinPosTransformerV2')
    backbone = MODELS.build(dict(settings, type=f'mmdet.{kind}'))
    problem = misfits(checkpoint, backbone)
    if problem:
        raise UserError(f'{args.checkpoint} does not fit {args.config}: {problem}')
    print(f'fits {args.config}:')
    print(backbone.load_report.details() if args.details else '\n'.join(backbone.load_report.lines()))


if __name__ == '__main__':
    sys.exit(run_cli(run, get_parser()))
