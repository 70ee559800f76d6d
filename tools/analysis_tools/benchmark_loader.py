"""Time the loading of training images, and print how many workers a training step needs."""
import argparse
import sys

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count, factor
from swin_pos_det.cli.arguments import add_config_arguments
from swin_pos_det.cli.main import run_cli


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Time each transform of the training pipeline in one process, count the bytes that a worker sends, '
                    'and print how many workers keep up with a training step. Masks are loaded as configured and, side '
                    'by side, as rectangles (CompactMasksHook).',
        epilog='Example: python tools/analysis_tools/benchmark_loader.py configs/swin_pos/'
               'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py --step-ms 150 --batch 2')
    parser.add_argument('config', help='path of the config file')
    parser.add_argument('--images', type=count, default=100, metavar='N', help='how many images (default: 100)')
    parser.add_argument('--step-ms', type=factor, default=200., metavar='MS',
                        help='milliseconds of a training step without loading (default: 200)')
    parser.add_argument('--batch', type=count, default=2, metavar='N', help='images of a step (default: 2)')
    add_config_arguments(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser


def benchmark(args: argparse.Namespace) -> None:
    """Measure as the command line says."""
    from swin_pos_det.analysis.benchmark.loader import measure
    from swin_pos_det.cli.runner import check_data, load_config

    cfg = load_config(args)
    check_data(cfg, ['train'])
    costs = measure(cfg, args.images)
    table = Table('', *costs, title='one core, processor time per image')
    for name in next(iter(costs.values())).transforms:
        table.add_row(f'{name}, ms', *(f'{cost.transforms[name]:.2f}' for cost in costs.values()))
    table.add_section()
    for title, text in {
            'pipeline, ms: median (mean)': lambda cost: f'{cost.total:.1f} ({cost.mean:.1f})',
            'pickling annotations, ms': lambda cost: f'{cost.pickling:.2f}',
            'annotations sent, KB': lambda cost: f'{cost.sent / 1000:.0f}',
            'image in shared memory, KB': lambda cost: f'{cost.image / 1000:.0f}',
            'images per second and worker': lambda cost: f'{cost.images_per_second:.1f}',
            f'workers for {args.batch} images in {args.step_ms:g} ms':
                lambda cost: str(cost.workers_for(args.step_ms, args.batch))}.items():
        table.add_row(title, *map(text, costs.values()))
    Console().print(table)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(benchmark, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
