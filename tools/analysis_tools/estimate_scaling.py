"""Estimate speed, memory and traffic of training Mask R-CNN with Swin on 1 to many GPUs, without running anything."""
import argparse
import dataclasses
import sys

from rich.console import Console

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.analysis.studies.scaling_estimate import GPUS, Setup, scaling_table
from swin_pos_det.cli.argument_types import count as count_type
from swin_pos_det.cli.argument_types import factor
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError

# Fields of Setup, by flag; the others keep their defaults.
ASSUMPTIONS = dict(
    batch='images per GPU and step', mfu='share of the peak rate that the model reaches while the GPU computes',
    overhead='seconds of a step that no faster GPU shortens (assigning, NMS, launching kernels)',
    overlap='share of the backward pass that communication can hide behind',
    bandwidth="share of the links' rates that collectives reach", latency='seconds per step of a collective',
    amp_activations='memory of activations with --amp over that in float32',
    loader_seconds='CPU seconds to read, decode and augment an image', cores='CPU cores per GPU')


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Estimate images/s, memory and communication of training Mask R-CNN with Swin. FLOPs, parameters '
                    'and activations are counted on the model; hardware figures are the vendors\'; all else is '
                    'assumed, by the flags below. Nothing is measured.',
        epilog='Example: python tools/analysis_tools/estimate_scaling.py --gpu h100 --models l --fsdp --with-cp')
    parser.add_argument('--gpu', choices=GPUS, default='a100', help='kind of GPU (default: a100)')
    parser.add_argument('--models', nargs='+', choices=['t', 's', 'b', 'l'], default=['t', 'b', 'l'], metavar='SIZE',
                        help='sizes of Swin: t s b l (default: t b l)')
    parser.add_argument('--gpus', nargs='+', type=count_type, default=[1, 8, 64, 512], metavar='N',
                        help='numbers of GPUs, up to 8 or multiples of 8 (default: 1 8 64 512)')
    parser.add_argument('--image', nargs=2, type=count_type, default=[800, 1344], metavar=('HEIGHT', 'WIDTH'),
                        help='size of the padded images (default: 800 1344)')
    parser.add_argument('--float32', action='store_true', help='TF32 instead of bfloat16 autocast')
    parser.add_argument('--fsdp', action='store_true', help='shard parameters, gradients and optimizer state')
    parser.add_argument('--with-cp', action='store_true', help='gradient checkpointing in the backbone')
    defaults = Setup()
    for name, meaning in ASSUMPTIONS.items():
        value = getattr(defaults, name)
        parser.add_argument(f'--{name.replace("_", "-")}', type=type(value), default=value, metavar='X',
                            help=f'{meaning} (default: {value:g})')
    parser.add_argument('--network-gbit', type=factor, metavar='X',
                        help="Gbit/s of network for each GPU (default: the DGX's, 200 per A100, 400 per H100)")
    parser.add_argument('--markdown', action='store_true', help='print the table as Markdown')
    add_traceback_argument(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Count, estimate and print."""
    from swin_pos_det.analysis.studies.scaling import count, mask_rcnn
    from swin_pos_det.progress import track

    setup = Setup(amp=not args.float32, fsdp=args.fsdp, with_cp=args.with_cp,
                  **{name: getattr(args, name) for name in ASSUMPTIONS})
    if min(setup.batch, setup.mfu, setup.bandwidth, setup.cores) <= 0 or max(setup.mfu, setup.bandwidth) > 1:
        raise UserError('--batch and --cores must be above 0, --mfu and --bandwidth above 0 and at most 1')
    wrong = [number for number in args.gpus if number < 1 or (number > setup.node and number % setup.node)]
    if wrong:
        raise UserError(f'--gpus takes 1 to {setup.node} or multiples of {setup.node}, got {wrong[0]}')
    names = track(args.models, 'counting', transient=True)
    counts = {name: count(mask_rcnn(name), tuple(args.image)) for name in names}
    print(f'Estimate, not measured. {args.gpu.upper()}, '
          + ', '.join(f'{field.name} {getattr(setup, field.name):g}' for field in dataclasses.fields(setup)))
    for name, found in counts.items():
        print(f'Swin-{name.upper()}: {found.parameters / 1e6:.1f} M parameters; an image: {found.forward / 1e9:.0f} '
              f'GFLOP forward in training, {found.activations / 1e9:.1f} GB of activations in float32, '
              f'{found.activations_checkpointed / 1e9:.1f} GB with checkpointing')
    gpu = GPUS[args.gpu]
    if args.network_gbit is not None:
        gpu = dataclasses.replace(gpu, network=args.network_gbit * 1e9 / 8)
    table = scaling_table(counts, args.gpus, gpu, setup)
    if args.markdown:
        print(table.to_markdown())
    else:
        Console(width=140).print(table.to_rich())


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(run, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
