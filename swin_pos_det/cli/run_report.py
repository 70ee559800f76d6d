"""The report of a training: its files, and the table that ends it."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
from rich.console import Console
from rich.table import Table

from ..analysis.runs import plot_curves, read_training, summarize, write_metrics
from ..analysis.runs.evaluation import Evaluation, evaluate_run
from ..analysis.runs.html_report import write_html
from ..analysis.runs.predictions import draw_predictions
from ..analysis.runs.run_report import AP_TITLES
from ..errors import SettingError
from ..visualization import contact_sheet, save_picture


def report_run(work_dir: Path, checkpoint: Optional[Path] = None, num_images: int = 12,
               score_threshold: float = 0.3, html: bool = False, results: Optional[Path] = None) -> None:
    """Write metrics, curves and pictures of predictions into a work dir, and print the table.

    Args:
        work_dir: that of ``tools/train.py``.
        checkpoint: weights for the pictures and the evaluation. Default: the last checkpoint in the work dir.
        num_images: validation images to draw; 0 for none.
        score_threshold: predictions below it are not drawn, in [0, 1].
        html: also evaluate the checkpoint on the validation data, and write ``report.html``.
        results: for the page, detections of ``tools/test.py --out``, instead of running the detector.

    Raises:
        FileNotFoundError: without a training in ``work_dir``, or without ``checkpoint``.
    """
    training = read_training(work_dir)
    metrics = summarize(work_dir, checkpoint)
    write_metrics(metrics, work_dir / 'metrics.json')
    pictures = [work_dir / 'curves.png']
    plot_curves(training, pictures[0], title=metrics['config'] or '')
    if num_images and metrics['checkpoint']:
        drawn = draw_predictions(training.runs[-1].config, metrics['checkpoint'], work_dir / 'predictions',
                                 num_images, score_threshold)
        sheet = contact_sheet((mmcv.imread(str(path), channel_order='rgb') for path in drawn), 2400, 360)
        save_picture(sheet, work_dir / 'predictions.png')
        pictures += [work_dir / 'predictions.png', f'{work_dir / "predictions"}/ ({len(drawn)} files)']
    if html:
        facts = {name: text for name, text in _rows(metrics, []) if name not in ('pictures', 'AP')}
        write_html(work_dir / 'report.html', training, metrics, facts,
                   _evaluate(training.runs[-1].config, metrics['checkpoint'], results, score_threshold), num_images,
                   score_threshold)
        pictures.append(work_dir / 'report.html')
    Console().print(result_table(metrics, pictures))


def _evaluate(config: Path, checkpoint: Optional[str], results: Optional[Path],
              score_threshold: float) -> Union[Evaluation, str]:
    """Return the evaluation, or why there is none."""
    try:
        return evaluate_run(config, checkpoint, results, score_threshold)
    except SettingError as error:
        return str(error)


def result_table(metrics: dict[str, Any], pictures: list) -> Table:
    """Return the table that ends the report."""
    table = Table(title=f'{metrics["config"]}: {metrics["iterations"]} iterations', show_header=False)
    for name, text in _rows(metrics, pictures):
        table.add_row(name, text)
    return table


def _rows(metrics: dict[str, Any], pictures: list) -> Iterator[tuple[str, str]]:
    for key, name in AP_TITLES.items():
        if key in metrics['final']:
            best = metrics['best'][key]
            yield name, f'{metrics["final"][key]:.3f} (best {best["value"]:.3f} at {best["iteration"]})'
    if not metrics['final']:
        yield 'AP', 'no evaluation was logged'
    yield 'training time', (f'{format_seconds(metrics["train_time_s"])} '
                            f'({metrics["seconds_per_iteration"]:.2f} s per iteration)')
    yield 'wall time', f'{format_seconds(metrics["wall_time_s"])}, set-up and evaluations included'
    yield 'checkpoint', metrics['checkpoint'] or 'none'
    yield 'pictures', '\n'.join(map(str, pictures))


def format_seconds(seconds: float) -> str:
    """Return a text such as ``'45 s'``, ``'7 min 05 s'`` or ``'2 h 03 min'``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f'{rest} s'
    return f'{minutes} min {rest:02d} s' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02d} min'
