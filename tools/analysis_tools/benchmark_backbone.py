"""Time this backbone beside other libraries' Swin, and whole detectors with it: tables, a JSON file, pictures."""
import argparse
import os.path as osp
import shlex
import sys
from pathlib import Path

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.analysis.benchmark.cases import DETECTOR_MODES, MODES, PRESETS, DetectorCase, within
from swin_pos_det.choices import BENCHMARK_DETECTORS, BENCHMARK_MODELS, BENCHMARK_VARIANTS
from swin_pos_det.cli.argument_types import count, factor, image_size, model_and_python, square_window
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Time Swin backbones side by side: this project's, mmdet's, timm's (fused attention), Hugging "
                    "Face's (scaled_dot_product_attention) and torchvision's. Each runs in a process of its own, with "
                    'the same weights and input; they take turns. With --detector, '
                    "whole detectors with this backbone and with mmdet's, and where their time goes.",
        epilog='Examples: benchmark_backbone.py --models ours mmdet  |  benchmark_backbone.py --preset windows '
               '--threads 2 --record docs/results/today.md  |  benchmark_backbone.py --windows 7 global --sizes 128 '
               '256 384 --memory  |  benchmark_backbone.py --detector CONFIG --sizes 800x1344 --memory')
    cases = parser.add_argument_group('what is measured', 'every combination of the lists; a list given here replaces '
                                                          "the preset's")
    presets = '; '.join(f'{name}: {_describe(lists)}' for name, lists in PRESETS.items())
    cases.add_argument('--preset', choices=PRESETS, default='quick', help=f'{presets} (default: quick)')
    cases.add_argument('--windows', nargs='+', type=square_window, metavar='W',
                       help="7, or 'global' for windows over the whole map (this backbone only)")
    cases.add_argument('--sizes', nargs='+', type=image_size, metavar='HxW',
                       help='of images in pixels: 512, or 800x1344')
    cases.add_argument('--batches', nargs='+', type=count, metavar='B', help='images')
    cases.add_argument('--modes', nargs='+', choices=sorted({*MODES, *DETECTOR_MODES}),
                       help='forward: under no_grad; train: forward and backward (of a detector: a training step); '
                            'inference: of a detector (default: both of train and inference)')
    cases.add_argument('--dtypes', nargs='+', choices=['float32', 'bf16', 'fp16'], help='the latter two by autocast')
    cases.add_argument('--runs', nargs='+', choices=['eager', 'compiled'], help='compiled: by torch.compile')
    cases.add_argument('--max-megapixels', type=factor, metavar='N', help='leave out batches of more pixels')
    cases.add_argument('--detector', nargs='+', metavar='CONFIG', help='time whole detectors instead of backbones')
    cases.add_argument('--checkpoint', metavar='FILE', help='trained weights for --detector (default: random ones)')
    models = parser.add_argument_group('models')
    models.add_argument('--models', nargs='+', choices=[*BENCHMARK_MODELS, 'fast'], metavar='M',
                        help=f'of {", ".join(BENCHMARK_MODELS)} (default: all that are installed); with --detector of '
                             f"{', '.join(BENCHMARK_DETECTORS)}: this backbone with mmdet's settings, mmdet's "
                             'backbone, this one with configs/_base_/fast_training.py (default: all)')
    models.add_argument('--python', nargs='+', type=model_and_python, default=[], metavar='M=PATH',
                        help='run a model with the Python of another environment, that has its library and torch')
    models.add_argument('--variant', choices=BENCHMARK_VARIANTS, default='T', help='of the Swin (default: T)')
    models.add_argument('--ablate', action='store_true',
                        help='instead of other libraries, time this backbone with each optimization for the CPU '
                             'switched off in turn; cases of its own unless lists are given')
    how = parser.add_argument_group('how')
    how.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='(default: cpu)')
    how.add_argument('--threads', type=count, metavar='N',
                     help='threads of torch, on as many cores (default: chosen by torch)')
    how.add_argument('--repeats', type=count, default=5, metavar='N', help='turns of each model (default: 5)')
    how.add_argument('--seconds', type=factor, default=0.2, metavar='S', help='shortest turn (default: 0.2)')
    how.add_argument('--warm-up', type=count, default=2, metavar='N', help='runs before the first turn (default: 2)')
    how.add_argument('--memory', action='store_true', help='measure peak memory too (on a CPU of eager models only)')
    how.add_argument('--no-time', action='store_true', help='measure peak memory only')
    how.add_argument('--matmul', type=count, default=None, metavar='N',
                     help='side of the matrices that measure the peak rate (default: 2048; CUDA: 8192)')
    out = parser.add_argument_group('results')
    out.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), metavar='DIR',
                     help='benchmark.json and PNGs go there (default: %(default)s)')
    out.add_argument('--record', type=Path, metavar='FILE.md',
                     help='write a dated record too: machine, versions, command, tables, with its pictures beside it')
    out.add_argument('--title', default='Swin backbones side by side', help='of the record')
    add_traceback_argument(parser)
    return parser


def _describe(lists) -> str:
    sizes = ' '.join(f'{h}x{w}' for h, w in lists['sizes'])
    return (f'{" ".join(lists["modes"])}, windows {" ".join(map(str, lists["windows"]))}, {sizes}, batch '
            f'{" ".join(map(str, lists["batches"]))}, {" ".join(lists["dtypes"])}, {" ".join(lists["runs"])}')


def get_cases(args: argparse.Namespace) -> list:
    """Return the cases that the command line spans."""
    lists = {name: getattr(args, name) or default for name, default in PRESETS[args.preset].items()}
    if args.detector:
        modes = args.modes or DETECTOR_MODES
        if 'forward' in modes:
            raise UserError('--detector has the modes train and inference')
        unused = [flag for flag in ('runs', 'windows', 'max_megapixels') if getattr(args, flag)]
        if unused:
            raise UserError(f'--{unused[0].replace("_", "-")} has no effect with --detector: leave it out')
        found = [DetectorCase(mode, config, size, batch, dtype) for config in args.detector for mode in modes
                 for size in lists['sizes'] for batch in lists['batches'] for dtype in lists['dtypes']]
        missing = next((config for config in args.detector if not osp.isfile(config)), None)
        if missing:
            raise UserError(f'config {missing} does not exist')
    else:
        if 'inference' in lists['modes']:
            raise UserError('the mode inference needs --detector; that of a backbone is called forward')
        found = within(lists, args.max_megapixels)
    if not found:
        raise UserError(f'--max-megapixels {args.max_megapixels:g} leaves nothing to measure')
    return found


def benchmark(args: argparse.Namespace) -> None:
    """Measure as the command line says."""
    import torch
    from mmengine.logging import MMLogger

    from swin_pos_det.analysis.benchmark.pool import Pool
    from swin_pos_det.analysis.benchmark.report import markdown, result
    from swin_pos_det.analysis.benchmark.runner import Benchmark, Settings, run
    from swin_pos_det.progress import ProgressBar

    cases = get_cases(args)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no CUDA device here')
    MMLogger.get_current_instance().setLevel('WARNING')  # a detector's random weights are announced one by one
    possible = BENCHMARK_DETECTORS if args.detector else BENCHMARK_MODELS
    names = [name for name in args.models or possible if name in possible]
    settings = Settings(
        variant=args.variant, repeats=args.repeats, seconds=args.seconds, warm_up=args.warm_up,
        time=not args.no_time, memory=args.memory or args.no_time, checkpoint=args.checkpoint,
        matmul=args.matmul or (8192 if args.device == 'cuda' else 2048))
    threads = args.threads or torch.get_num_threads()
    with Pool(names, dict(args.python), args.device, threads) as pool, ProgressBar('benchmark', len(cases)) as bar:
        if not pool.names:
            raise UserError('no model can be run: ' + '; '.join(f'{k}: {why}' for k, why in pool.missing.items()))
        with Benchmark(pool, settings, bar.describe) as bench:
            rows = run(cases, bench, bar.advance)
            command = shlex.join(['python', *sys.argv])
            data, tables = result(rows, bench, args.device, threads, command), markdown(rows, bench)
    write_results(args, rows, data, tables)


def ablate(args: argparse.Namespace) -> None:
    """Measure what each optimization gains, and print a table."""
    import torch

    from swin_pos_det.analysis.benchmark.ablation import CASES, ablate, ablation_table
    from swin_pos_det.progress import track

    if args.device != 'cpu' or args.detector or args.runs or args.dtypes or args.record:
        raise UserError('--ablate measures the backbone on the CPU, in float32 and eager, and prints its table: leave '
                        'out --device, --detector, --runs, --dtypes and --record')
    given = any(getattr(args, name) for name in ('windows', 'sizes', 'batches', 'modes'))
    cases = [(args.variant, case) for case in get_cases(args)] if given else CASES
    torch.set_num_threads(args.threads or torch.get_num_threads())
    print(ablation_table([ablate(*case, args.repeats) for case in track(cases, 'cases')]))


def write_results(args: argparse.Namespace, rows: list, data: dict, tables: str) -> None:
    """Print the tables, and write the JSON file, the pictures and the record."""
    from swin_pos_det.analysis.benchmark.plots import plot_growth, plot_windows
    from swin_pos_det.analysis.benchmark.report import record
    from swin_pos_det.checkpoints import write_json

    write_json(data, args.out / 'benchmark.json', indent=1)
    print(f'\n{tables}\n\n{args.out / "benchmark.json"}')
    folder, stem = (args.record.parent, f'{args.record.stem}-') if args.record else (args.out, '')
    backbones = [] if args.detector else rows
    pictures = plot_growth(backbones, folder / f'{stem}growth.png')
    pictures += plot_windows(backbones, folder / f'{stem}windows.png')
    for picture in pictures:
        print(picture)
    if args.record:
        record(args.record, args.title, data, tables, pictures)
        print(args.record)


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(lambda args: (ablate if args.ablate else benchmark)(args), get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
