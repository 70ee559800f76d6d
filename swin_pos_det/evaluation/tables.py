"""The numbers of an evaluation as tables for a terminal."""
from __future__ import annotations

import io
import math
from typing import Union

from rich.console import Console
from rich.table import Table

from .coco_eval import SIZES, CocoScores

KIND_NAMES = {'bbox': 'boxes', 'segm': 'masks'}


def score_tables(scores: CocoScores) -> list[Table]:
    """Make four tables: AP, AP and AR by size, AR, and all by class."""
    stats, last, kind = scores.stats, scores.max_dets[-1], KIND_NAMES[scores.iou_type]
    overall = Table('AP', 'AP50', 'AP75', title=kind)
    overall.add_row(*(_number(stats[column.header]) for column in overall.columns))
    sizes = Table('size', 'AP', f'AR@{last}', title=f'{kind} by size')
    for size, short in SIZES.items():
        sizes.add_row(size, _number(stats[f'AP{short}']), _number(stats[f'AR{short}']))
    recall = Table('detections per image', 'AR', title=f'{kind}: average recall')
    for limit in scores.max_dets:
        recall.add_row(str(limit), _number(stats[f'AR@{limit}']))
    return [overall, sizes, recall, class_table(scores)]


def class_table(scores: CocoScores) -> Table:
    """Make a table with a row for each class."""
    keys = [key for key in scores.per_class[0] if key not in ('name', 'detections')]
    table = Table('class', *keys, title=f'{KIND_NAMES[scores.iou_type]} by class (AR@{scores.max_dets[-1]})')
    for row in scores.per_class:
        table.add_row(row['name'], *(_number(row[key]) for key in keys))
    return table


def table_text(table: Table) -> str:
    """Format a table as plain text, for a log."""
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue().rstrip()


def _number(value: Union[int, float]) -> str:
    """Format a number of a table; '-' where there are no objects."""
    return str(value) if isinstance(value, int) else '-' if math.isnan(value) else f'{value:.3f}'
