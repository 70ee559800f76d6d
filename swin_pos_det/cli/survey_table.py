"""The table of a data set's classes, and the findings about its annotation file."""
from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..data.objects import LOOKS
from ..data.statistics import Survey


def print_survey(found: Survey, console: Console) -> bool:
    """Print the findings; return whether something is wrong."""
    faults = found.faults + ([LOOKS[found.look]] if found.look else [])
    if found.classes:
        table = Table('class', *(Column(name, justify='right', no_wrap=True) for name in (
            'images', 'objects', 'learned', 'small', 'medium', 'large', 'median side')))
        for one in found.classes:
            table.add_row(escape(one.name), *map(str, (one.images, one.objects, one.learned, one.small, one.medium,
                                                       one.large)), f'{one.side:.0f} px' if one.learned else '')
        table.add_section()
        total = [str(sum(getattr(one, key) for one in found.classes))
                 for key in ('objects', 'learned', 'small', 'medium', 'large')]
        table.add_row(f'{len(found.classes)} classes', '', *total, '')
        console.print(table)
    for note in found.notes:
        console.print(f'[cyan]note[/] {escape(note)}', soft_wrap=True)
    for fault in faults:
        console.print(f'[red]wrong[/] {escape(fault)}', soft_wrap=True)
    if not faults:
        console.print('nothing is wrong')
    return bool(faults)
