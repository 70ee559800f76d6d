"""Progress bars. They are drawn on standard error; a file or pipe gets one line, when the work is done."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Optional, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

Item = TypeVar('Item')


class ProgressBar:
    """A bar with the steps done, the time taken and the time left; a context manager.

    Threads may share it. It leaves ``sys.stdout`` and ``sys.stderr`` as they are: worker processes that are forked
    meanwhile would write through rich's lock.

    Args:
        description: shown before the bar.
        total: number of steps.
        transient: remove the bar at the end, and write nothing to a file or pipe.
        disable: show nothing.
    """

    def __init__(self, description: str, total: Optional[int], *, transient: bool = False,
                 disable: bool = False) -> None:
        text = TextColumn('{task.description}', markup=False, table_column=Column(no_wrap=True, overflow='ellipsis'))
        console = Console(stderr=True)
        disable = disable or transient and not console.is_terminal  # some releases of rich write an empty line then
        self._progress = Progress(text, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
                                  TimeRemainingColumn(), console=console, transient=transient,
                                  redirect_stdout=False, redirect_stderr=False, disable=disable)
        self._task = self._progress.add_task(description, total=total)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    def advance(self, steps: int = 1) -> None:
        """Count further steps as done."""
        self._progress.advance(self._task, steps)

    def describe(self, description: str) -> None:
        """Change the text before the bar."""
        self._progress.update(self._task, description=description)


def track(items: Iterable[Item], description: str, total: Optional[int] = None, *, transient: bool = False,
          disable: bool = False) -> Iterator[Item]:
    """Yield the items and show a bar meanwhile.

    Args:
        items: to yield.
        description: shown before the bar.
        total: number of items. Default: the length of ``items``, if it has one.
        transient, disable: see :class:`ProgressBar`.
    """
    if total is None and hasattr(items, '__len__'):
        total = len(items)
    with ProgressBar(description, total, transient=transient, disable=disable) as bar:
        for item in items:
            yield item
            bar.advance()
