"""Export a whole detector to ONNX, for images of any size, and check it."""
import argparse
import sys

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, onnx_file
from swin_pos_det.cli.arguments import add_config_arguments
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Export a detector to ONNX: normalisation, padding, network, box decoding, NMS and masks in one '
                    'graph, with height and width left free. It is compared with the detector at eight other sizes; '
                    'unless they agree, the exit status is 1 and nothing is written.',
        epilog='Example: python tools/deployment/export_detector.py CONFIG epoch_4.pth --out model.onnx. Then: '
               'python tools/infer.py model.onnx photos/ --out found')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('checkpoint', help='the .pth file with the weights')
    parser.add_argument('--out', type=onnx_file, default='detector.onnx', metavar='FILE',
                        help='what to write (default: %(default)s)')
    parser.add_argument('--batch', type=count, default=1, metavar='N',
                        help='images at once, all of one size (default: 1)')
    add_config_arguments(parser)
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)  # what load_config wants to know
    return parser


def export(args: argparse.Namespace) -> int:
    """Export and compare; return the exit status."""
    from rich.console import Console
    from rich.table import Table

    from swin_pos_det.apis import build_detector
    from swin_pos_det.checkpoints import check_writable
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import load_config
    from swin_pos_det.deployment import export_detector

    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    check_writable(args.out)
    done = export_detector(build_detector(cfg, args.checkpoint), args.out, args.batch)
    table = Table('size', 'image', 'scores over', 'found', 'unpaired', 'box, px', 'score', 'mask',
                  title='largest differences from torch')
    for each in done.comparisons:
        case = each.case
        table.add_row(f'{case.height}x{case.width}', case.picture,
                      "the config's" if case.threshold is None else f'{case.threshold:g}', str(each.found),
                      str(each.unpaired), *(f'{value:.1e}' for value in (each.box, each.score, each.mask)))
    Console().print(table)
    if not done.equal:
        print(f'error: the exported detector does not equal the one in torch; {args.out} was not written',
              file=sys.stderr)
        return 1
    print(f'{done.path} ({done.path.stat().st_size / 2**20:.0f} MiB)')
    return 0


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(export, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
