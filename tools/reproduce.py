"""Evaluates a config's weights and compares with its figures in the model index: pass or fail."""
import argparse
import os.path as osp
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from rich.console import Console
from rich.table import Column, Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.choices import AP_NAMES, LOG
from swin_pos_det.cli.argument_types import ap_points
from swin_pos_det.cli.arguments import add_common_arguments
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError

ROOT = Path(osp.dirname(osp.dirname(osp.abspath(__file__))))
FAILED = 3
TOLERANCE = 0.1  # AP points, on the scale from 0 to 100
COCO_FILES = ('http://images.cocodataset.org/zips/val2017.zip and '
              'http://images.cocodataset.org/annotations/annotations_trainval2017.zip')


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description="Evaluate a config's weights on the data of its figures and compare: what others published, and "
                    'what this project measured. It passes if box and mask AP agree with one source.',
        epilog=f'Exit status: 0 passed, {FAILED} failed, 1 nothing was compared. Example: python tools/reproduce.py '
               'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits --train. For COCO configs, set the environment variable '
               'COCO_ROOT to the folder with annotations/ and val2017/.')
    parser.add_argument('name', nargs='?', metavar='NAME', help='a config of the model index, by its name or file')
    parser.add_argument('--list', action='store_true', help='show all configs and their figures, and stop')
    parser.add_argument('--checkpoint', metavar='FILE',
                        help="the weights (default: the source's own in --downloads, else the last in --work-dir)")
    parser.add_argument('--downloads', default='checkpoints', metavar='DIR',
                        help='folder with downloaded checkpoints (default: checkpoints)')
    parser.add_argument('--work-dir', metavar='DIR',
                        help='of the training; the evaluation goes into its subfolder reproduce (default: '
                             'work_dirs/NAME)')
    parser.add_argument('--train', action='store_true',
                        help='train first, or go on with a training that was stopped, if the work dir has no result')
    parser.add_argument('--against', metavar='SOURCE',
                        help=f'only sources with this in their name; {LOG!r}: what the training logged for the same '
                             'checkpoint (default: all in the index)')
    parser.add_argument('--tolerance', type=ap_points, default=TOLERANCE, metavar='AP',
                        help=f'largest difference that passes, in AP points from 0 to 100 (default: {TOLERANCE})')
    parser.add_argument('--index', default=str(ROOT / 'model-index.yml'), metavar='FILE',
                        help="the model index (default: this project's)")
    add_common_arguments(parser)
    return parser


def reproduce(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Evaluate and compare as the command line says; return the exit status."""
    from mmengine.dist import is_main_process

    from swin_pos_det.analysis.runs.model_index import find_model, read_model_index
    from swin_pos_det.analysis.runs.reproduce import choose_figures, compare, find_weights, logged_figures
    from swin_pos_det.cli.runner import load_config

    try:
        models = read_model_index(args.index)
        if args.list or args.name is None:
            Console().print(index_table(models))
            return 0
        model = find_model(models, args.name)
        figures = choose_figures(model, None if args.against == LOG else args.against)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    args.config = str(model.config)
    args.work_dir = args.work_dir or osp.join('work_dirs', model.name)
    checkpoint = weights(args, model, figures)
    if checkpoint is None:
        status = train(load_config(args), argv)
        if status:
            return status
        checkpoint = find_weights(model, figures, args.work_dir, args.downloads)
    logged = logged_figures(checkpoint)
    if args.against == LOG:
        if logged is None:
            raise UserError(f'{checkpoint.parent} has no log of an evaluation of {checkpoint.name}')
        figures, logged = (logged, ), None
    rows = compare(evaluate(args, model, checkpoint), figures, args.tolerance)
    if is_main_process():
        report(model, checkpoint, rows, compare_with_log(rows, logged, args.tolerance), args.tolerance)
    return 0 if any(row.agrees for row in rows) else FAILED


def check_benchmark_data(cfg, model, meta=None) -> None:
    """Fail if the test data are missing, or not those of the figures or of a checkpoint with that ``meta``."""
    from swin_pos_det.analysis.runs.reproduce import check_coco_is_whole
    from swin_pos_det.cli.runner import check_data
    from swin_pos_det.data.coco_root import CocoRootError

    try:
        check_data(cfg, ['test'], meta)
    except CocoRootError as error:
        raise UserError(f'{error}. An evaluation needs {COCO_FILES}, unpacked there') from error
    if model.dataset == 'COCO':
        try:
            check_coco_is_whole(cfg.test_evaluator.ann_file)
        except ValueError as error:
            raise UserError(str(error)) from error


def weights(args: argparse.Namespace, model, figures) -> Optional[Path]:
    """Return the checkpoint to evaluate; None if there is none yet, the data are there, and it may be trained."""
    from swin_pos_det.analysis.runs.reproduce import check_trained_to_the_end, find_weights
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint
    from swin_pos_det.cli.runner import load_config

    if args.checkpoint is not None:
        check_checkpoint(args.checkpoint)
        return Path(args.checkpoint)
    cfg = load_config(args)
    try:
        checkpoint = find_weights(model, figures, args.work_dir, args.downloads)
        check_trained_to_the_end(cfg, checkpoint, check_checkpoint(str(checkpoint)))
        return checkpoint
    except (FileNotFoundError, ValueError) as error:
        check_benchmark_data(cfg, model)
        if not args.train:
            raise UserError(str(error)) from error
    return None


def train(cfg, argv: Sequence[str]) -> int:
    """Train, from the last checkpoint in the work dir if there is one; return the exit status."""
    from swin_pos_det.cli.resuming import train_config
    from swin_pos_det.engine.amp import use_mixed_precision

    use_mixed_precision(cfg, requested=False)
    return train_config(cfg, argv, 'auto', flag='')


def evaluate(args: argparse.Namespace, model, checkpoint: Path) -> dict:
    """Return ``'box AP'`` and ``'mask AP'`` of the checkpoint, from 0 to 100."""
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    from swin_pos_det.analysis.runs.reproduce import evaluated_aps
    from swin_pos_det.cli.checkpoint_checks import check_checkpoint, check_evaluable
    from swin_pos_det.cli.runner import build_runner, load_config, prepare_testing

    cfg = load_config(args)
    cfg.work_dir = osp.join(args.work_dir, 'reproduce')
    check_benchmark_data(cfg, model, check_checkpoint(str(checkpoint)))
    check_evaluable(str(checkpoint))
    prepare_testing(cfg, str(checkpoint))
    setup_cache_size_limit_of_dynamo()
    try:
        return evaluated_aps(build_runner(cfg, evaluated='test').test())
    except ValueError as error:
        raise UserError(str(error)) from error


def compare_with_log(rows, logged, allowed: float):
    """Return the evaluation beside the training's own log, which does not count for the verdict; None without a log."""
    from swin_pos_det.analysis.runs.reproduce import compare

    if logged is None:
        return None
    aps = {name: row.figures.ap[name] + difference for row in rows for name, difference in row.differences.items()}
    return compare(aps, [logged], allowed)[0]


def report(model, checkpoint: Path, rows, log, allowed: float) -> None:
    """Print the comparison and the verdict."""
    table = Table('', *AP_NAMES, '', title=model.name)
    first = rows[0]
    table.add_row(f'now: {checkpoint}', *(
        f'{first.figures.ap[name] + first.differences[name]:.1f}' if name in first.differences else '-'
        for name in AP_NAMES))
    for row in [*rows, *([log] if log else [])]:
        kind = 'logged by the training' if row.figures.source == LOG else (
            f'{"this project" if row.figures.measured else "published"}: {row.figures.source}')
        # + 0. makes -0.0 positive
        cells = [f'{row.figures.ap[name]:.1f} ({round(row.differences[name], 1) + 0.:+.1f})'
                 if name in row.differences else '-' for name in AP_NAMES]
        table.add_row(kind, *cells, 'agrees' if row.agrees else 'differs')
    console = Console()
    console.print(table)
    agreeing = [row.figures for row in rows if row.agrees]
    if agreeing:
        console.print(f'PASS: within {allowed} AP points of {agreeing[0].source} ({agreeing[0].where})', soft_wrap=True)
        return
    console.print(f'FAIL: no source is within {allowed} AP points', soft_wrap=True)
    if log is not None and log.agrees:
        console.print('The evaluation repeats what the training logged, so the difference is one of training: another '
                      f'machine, number of threads, seed or version. --against {LOG} compares with that alone.',
                      soft_wrap=True)


def index_table(models) -> Table:
    """Return all configs of an index with their figures."""
    table = Table(Column('config', overflow='fold', ratio=1), *AP_NAMES, Column('source', overflow='fold', ratio=1),
                  title='Figures in the model index')
    for model in models.values():
        for number, one in enumerate(model.figures):
            table.add_row(model.name if number == 0 else '', *(f'{one.ap[name]:.1f}' if name in one.ap else '-'
                                                               for name in AP_NAMES),
                          f'{"this project" if one.measured else "published"}: {one.source}')
        if not model.figures:
            table.add_row(model.name, '-', '-', f'none: {model.why_no_published}')
    return table


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return run_cli(lambda args: reproduce(args, argv), get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
