"""Rewrite the backbone of any Swin checkpoint in a library's own format, optionally at another window."""
import argparse
import os.path as osp
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import CHECKPOINT_LAYOUTS, RESAMPLING_MODES, WEIGHTS_ENDINGS
from swin_pos_det.cli.argument_types import file_name, window_size
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Rewrite the Swin backbone of a checkpoint in a library's own names and layout. The format is "
                    'detected from its keys. SwinPosTransformer needs no conversion: it loads them all.',
        epilog='Example: python tools/model_converters/convert_swin.py swin_timm.safetensors swin.pth --window 12')
    parser.add_argument('input', metavar='IN', help='a .pth, .bin or .safetensors file of a backbone, classifier or '
                                                    'detector')
    parser.add_argument('output', type=file_name(*WEIGHTS_ENDINGS), metavar='OUT',
                        help='the file to write; .safetensors writes that format')
    parser.add_argument('--to', choices=CHECKPOINT_LAYOUTS, default='mmdet',
                        help='target format: mmdet, timm (num_classes=0), hf (SwinBackbone), torchvision or microsoft '
                             '(the authors\' detection backbone); of a Swin V2 their V2 (default: mmdet)')
    parser.add_argument('--window', type=window_size, metavar='N', help='resample tables to this window: 12, or 7,14')
    parser.add_argument('--resampling', choices=RESAMPLING_MODES, default='bicubic', help='how (default: bicubic)')
    add_traceback_argument(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert as the command line says."""
    from swin_pos_det.checkpoints import (
        EXPORTS,
        EXPORTS_V2,
        convert,
        inspect_checkpoint,
        load_checkpoint_file,
        save_weights,
        windows_after,
    )

    if osp.exists(args.output) and osp.samefile(args.input, args.output):
        raise UserError(f'{args.output} is the input, which would keep only the backbone: name another file')
    checkpoint = load_checkpoint_file(args.input, map_location='cpu')
    try:
        found = inspect_checkpoint(checkpoint)
        converted = convert(found.weights, args.to, args.window, args.resampling)
    except ValueError as error:
        raise UserError(f'{args.input}: {error}') from error
    windows = windows_after(found.variant, args.window)
    save_weights(converted, args.output, args.to, windows, found.weights.grid, found.weights.position)
    layouts = EXPORTS_V2 if found.variant.version == 2 else EXPORTS
    before, after = found.variant.windows[0] or 'unknown', windows[0] if windows else 'unknown'
    print(f'{args.input}: {found.variant.name} in {found.weights.where}, window {before}')
    print(f'{args.output}: {len(converted)} tensors in {layouts[args.to].title} names, window {after}')
    if found.weights.unused:
        print(f'{len(found.weights.unused)} others of {args.input} are not part of the backbone, such as '
              f'{found.weights.unused[0]}, and are left out')


if __name__ == '__main__':
    sys.exit(run_cli(run, get_parser()))
