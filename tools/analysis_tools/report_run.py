"""Report on a training: metrics.json, curves.png, pictures of predictions, and a short table."""
import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

DEFER_REGISTRATION = True  # run_cli registers the package, after the command line is parsed

from swin_pos_det.cli.argument_types import count_from_0, fraction
from swin_pos_det.cli.arguments import add_traceback_argument
from swin_pos_det.cli.main import run_cli
from swin_pos_det.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Build the command line of this tool."""
    parser = argparse.ArgumentParser(
        description='Report on the newest training in a work dir. Writes metrics.json, curves.png (losses and AP), '
                    'predictions/*.png (ground truth beside predictions) and predictions.png (all of them) into it.',
        epilog='Example: python tools/analysis_tools/report_run.py work_dirs/demo')
    parser.add_argument('work_dir', type=Path, metavar='WORK_DIR', help='the work dir of tools/train.py')
    parser.add_argument('--checkpoint', type=Path, metavar='FILE',
                        help='weights for the pictures (default: the last checkpoint in the work dir)')
    parser.add_argument('--num-images', type=count_from_0, default=12, metavar='N',
                        help='validation images to draw, spread over the set; 0 for none (default: 12)')
    parser.add_argument('--score-thr', '--score-threshold', dest='score_threshold', type=fraction, default=0.3,
                        metavar='S', help='leave out predictions below this score (default: 0.3)')
    add_traceback_argument(parser)
    return parser


def format_seconds(seconds: float) -> str:
    """Return a text such as ``'45 s'``, ``'7 min 05 s'`` or ``'2 h 03 min'``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f'{rest} s'
    return f'{minutes} min {rest:02d} s' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02d} min'


def result_table(metrics: dict, pictures: list) -> Table:
    """Return the table that ends the report."""
    from swin_pos_det.analysis.runs.run_report import AP_TITLES

    table = Table(title=f'{metrics["config"]}: {metrics["iterations"]} iterations', show_header=False)
    for key, name in AP_TITLES.items():
        if key in metrics['final']:
            best = metrics['best'][key]
            table.add_row(name, f'{metrics["final"][key]:.3f} (best {best["value"]:.3f} at {best["iteration"]})')
    if not metrics['final']:
        table.add_row('AP', 'no evaluation was logged')
    table.add_row('training time', f'{format_seconds(metrics["train_time_s"])} '
                                   f'({metrics["seconds_per_iteration"]:.2f} s per iteration)')
    table.add_row('wall time', f'{format_seconds(metrics["wall_time_s"])}, set-up and evaluations included')
    table.add_row('checkpoint', metrics['checkpoint'] or 'none')
    table.add_row('pictures', '\n'.join(map(str, pictures)))
    return table


def report(args: argparse.Namespace) -> None:
    """Write the files and print the table."""
    import mmcv

    from swin_pos_det.analysis.runs import plot_curves, read_training, summarize, write_metrics
    from swin_pos_det.analysis.runs.predictions import draw_predictions
    from swin_pos_det.visualization import contact_sheet, save_picture

    try:
        training = read_training(args.work_dir)
        metrics = summarize(args.work_dir, args.checkpoint)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    write_metrics(metrics, args.work_dir / 'metrics.json')
    pictures = [args.work_dir / 'curves.png']
    plot_curves(training, pictures[0], title=metrics['config'] or '')
    if args.num_images and metrics['checkpoint']:
        drawn = draw_predictions(training.runs[-1].config, metrics['checkpoint'], args.work_dir / 'predictions',
                                 args.num_images, args.score_threshold)
        sheet = contact_sheet((mmcv.imread(str(path), channel_order='rgb') for path in drawn), 2400, 360)
        save_picture(sheet, args.work_dir / 'predictions.png')
        pictures += [args.work_dir / 'predictions.png', f'{args.work_dir / "predictions"}/ ({len(drawn)} files)']
    Console().print(result_table(metrics, pictures))


def main(argv=None) -> int:
    """Run the tool; return its exit status."""
    return run_cli(report, get_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
