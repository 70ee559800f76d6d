"""Export the backbone of a config for other runtimes and all image sizes, and check it."""
import argparse
import sys

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import EXPORT_ENDINGS
from swin_pos_det.cli.argument_types import count, file_name
from swin_pos_det.cli.arguments import add_common_arguments, note_unused
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError

# None of them is the size used in the export, and not all divide by 32.
SIZES = ((1, 224, 224), (1, 256, 320), (1, 333, 500), (3, 200, 301), (1, 97, 640), (2, 480, 352), (1, 64, 64),
         (1, 33, 415))
TOLERANCE = 1e-4


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Export the backbone of a config to ONNX (.onnx) or torch.export (.pt2), with batch, height and '
                    'width left free, and compare it with the backbone at eight sizes. Exit status 1 if one differs '
                    f'by more than {TOLERANCE}.',
        epilog='Example: python tools/deployment/export_backbone.py CONFIG CHECKPOINT --out swin.onnx '
               '--cfg-options model.backbone.window_size=12 model.backbone.table_window_size=7')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', nargs='?',
                        help="the .pth file (default: what the config's init_cfg names, else random weights)")
    parser.add_argument('--out', type=file_name(*EXPORT_ENDINGS), default='backbone.onnx', metavar='FILE',
                        help='what to write: .onnx or .pt2 (default: %(default)s)')
    parser.add_argument('--opset', type=int, default=18, help='of ONNX (default: %(default)s)')
    parser.add_argument('--time', nargs=2, type=count, metavar=('H', 'W'),
                        help='also time it against the backbone with an image of this size')
    parser.add_argument('--work-dir', help=argparse.SUPPRESS)
    add_common_arguments(parser)
    return parser


def export(args: argparse.Namespace) -> int:
    """Export and compare; return the exit status."""
    import torch

    from swin_pos_det.apis import build_detector
    from swin_pos_det.checkpoints import check_writable
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import load_config
    from swin_pos_det.deployment import compare_exported, export_backbone, load_exported, time_exported

    cfg = load_config(args)
    if args.checkpoint is not None:
        check_checkpoint(args.checkpoint)
    check_writable(args.out)
    if args.out.endswith('.pt2'):
        note_unused(get_parser(), args, ['opset'], 'on .pt2')
    backbone = build_detector(cfg, args.checkpoint, whole=False).backbone.eval()
    try:
        path = export_backbone(backbone, args.out, args.opset)
        run = load_exported(path, torch.get_num_threads())
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from error
    table = Table('images', 'largest difference', title=f'{path} ({path.stat().st_size / 2**20:.0f} MiB)')
    differences = compare_exported(backbone, run, SIZES)
    for size, difference in differences.items():
        table.add_row(size, f'{difference:.1e}')
    Console().print(table)
    if args.time:
        own, exported = time_exported(backbone, run, (1, *args.time))
        print(f'{args.time[0]} x {args.time[1]}: backbone {own * 1000:.0f} ms, exported {exported * 1000:.0f} ms '
              f'({own / exported:.2f}x), {torch.get_num_threads()} threads')
    return int(not all(difference <= TOLERANCE for difference in differences.values()))  # also if it is NaN


if __name__ == '__main__':
    sys.exit(run_cli(export, get_parser()))
