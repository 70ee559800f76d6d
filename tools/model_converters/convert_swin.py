"""Rewrites the backbone of any Swin checkpoint in a library's own format, and at another window if asked."""
import argparse
import ast
import importlib.util
import os.path as osp
import sys

if importlib.util.find_spec('swin_pos_det') is None:  # run from a clone without installing it
    sys.path.insert(0, osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))))

from swin_pos_det.checkpoints import EXPORTS, convert, inspect_checkpoint, load_checkpoint_file, save_weights
from swin_pos_det.engine.cli import UserError, run_cli
from swin_pos_det.layers.relative_bias import RESAMPLING_MODES


def window(text: str):
    """An argparse type: an int, or ``h,w``."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(sides, tuple) and len(sides) == 2 and all(isinstance(s, int) and s > 0 for s in sides):
        return sides
    raise argparse.ArgumentTypeError(f'{text!r} is no window: write 7, or 7,14 for (h, w)')


def get_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Rewrite the Swin backbone of a checkpoint in a library's own names and layout. Whose it is, is "
                    'found out from its keys. SwinPosTransformer needs no conversion: it loads them all.',
        epilog='Example: python tools/model_converters/convert_swin.py swin_timm.safetensors swin.pth --window 12')
    parser.add_argument('input', metavar='IN', help='a .pth, .bin or .safetensors file of a backbone, classifier or '
                                                    'detector')
    parser.add_argument('output', metavar='OUT', help='the file to write; .safetensors writes that format')
    parser.add_argument('--to', choices=list(EXPORTS), default='mmdet',
                        help='whose names: mmdet, timm (num_classes=0), hf (SwinBackbone), torchvision or microsoft '
                             '(the authors\' detection backbone) (default: mmdet)')
    parser.add_argument('--window', type=window, metavar='N', help='resample the tables to this window: 12, or 7,14')
    parser.add_argument('--resampling', choices=RESAMPLING_MODES, default='bicubic', help='how (default: bicubic)')
    parser.add_argument('--traceback', action='store_true', help='show where an error came from')
    return parser


def run(args: argparse.Namespace) -> None:
    """Converts as the command line says."""
    checkpoint = load_checkpoint_file(args.input, map_location='cpu')
    try:
        found = inspect_checkpoint(checkpoint)
        converted = convert(found.weights, args.to, args.window, args.resampling)
    except ValueError as error:
        raise UserError(f'{args.input}: {error}') from error
    windows = [args.window] * len(found.variant.windows) if args.window else found.variant.windows
    save_weights(converted, args.output, args.to, windows)
    print(f'{args.input}: {found.variant.name} in {found.weights.where}, window {found.variant.windows[0]}')
    print(f'{args.output}: {len(converted)} tensors in {EXPORTS[args.to].title} names, window {windows[0]}')


if __name__ == '__main__':
    sys.exit(run_cli(run, get_parser()))
