"""Pictures of a benchmark: growth with the image, and time over windows."""
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, List, Sequence

from matplotlib.figure import Figure

from ...visualization import save_figure
from .flops import exponent
from .runner import Row

# A fixed colour for each model (a colour-blind-safe palette).
COLOURS = {'ours': '#0072B2', 'mmdet': '#D55E00', 'timm': '#009E73', 'hf': '#CC79A7', 'torchvision': '#E69F00'}

MARKERS = 'os^Dv*'  # one a window


def _way(row: Row) -> tuple:
    return row.case.mode, row.case.dtype, row.case.compiled


def plot_growth(rows: Sequence[Row], path: Path) -> List[Path]:
    """Plot time, and memory if measured, against pixels on logarithmic axes, with the fitted exponent of each line.

    Args:
        rows: of backbones.
        path: of the PNG; nothing is drawn of models with one size only.

    Returns:
        The path, if there is something to draw.
    """
    def key(row: Row) -> tuple:
        return (*map(str, _way(row)), str(row.case.window), row.case.batch, row.model)

    lines = []
    for _, group in itertools.groupby(sorted((row for row in rows if row.error is None), key=key), key):
        group = sorted(group, key=lambda row: row.case.pixels)
        if len({row.case.pixels for row in group}) > 1:
            lines.append(group)
    labels = dict(median='seconds (median)', mib='peak memory (MiB)')
    drawn = {what: [line for line in lines if sum(bool(getattr(row, what)) for row in line) > 1] for what in labels}
    drawn = {what: found for what, found in drawn.items() if found}
    if not drawn:
        return []
    several = len({_way(line[0]) for line in lines}) > 1
    windows = sorted({str(line[0].case.window) for line in lines})
    figure = Figure(figsize=(5.5 * len(drawn), 4.5), layout='constrained')
    axes = figure.subplots(1, len(drawn), squeeze=False)
    for axis, (what, found) in zip(axes[0], drawn.items()):
        for line in found:
            x, y = zip(*((row.case.pixels / 1e6, getattr(row, what)) for row in line if getattr(row, what)))
            case = line[0].case
            label = (f'{line[0].model}, window {case.window}' + f', batch {case.batch}' * (case.batch > 1) +
                     f', {case.mode} {case.dtype} {"compiled" if case.compiled else "eager"}' * several +
                     f': pixels^{exponent(x, y):.2f}')
            marker = MARKERS[windows.index(str(case.window)) % len(MARKERS)]
            axis.plot(x, y, marker=marker, label=label, color=COLOURS.get(line[0].model),
                      linestyle='--' if case.window == 'global' else '-')
        axis.set(xscale='log', yscale='log', xlabel='megapixels of the batch', ylabel=labels[what])
        _number_plainly(axis, sorted({row.case.pixels / 1e6 for line in found for row in line}))
        axis.grid(alpha=.3)
        axis.legend(fontsize=7)
    return [save_figure(figure, path)]


def _number_plainly(axis: Any, sizes: Sequence[float]) -> None:
    """Put ticks at the measured sizes, except those that would overlap, with numbers without powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
    kept: List[float] = []
    for size in sizes:
        if not kept or size > 1.15 * kept[-1]:
            kept.append(size)
    axis.xaxis.set_major_locator(FixedLocator(kept))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for which in (axis.xaxis, axis.yaxis):
        which.set_minor_locator(NullLocator())
        which.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.3g}' if value < 1000 else f'{value:.0f}'))


def plot_windows(rows: Sequence[Row], path: Path) -> List[Path]:
    """Plot the time at each window as bars, a panel for each way of running, size and batch.

    Returns:
        The path, if some panel has two windows.
    """
    def key(row: Row) -> tuple:
        return (*_way(row), row.case.size, row.case.batch)

    panels = [list(group) for _, group in itertools.groupby(sorted(
        (row for row in rows if row.median and row.case.window != 'global'), key=key), key)]
    panels = [panel for panel in panels if len({row.case.window for row in panel}) > 1]
    if not panels:
        return []
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    for axis, panel in zip(axes.flat, panels):
        windows = sorted({row.case.window for row in panel})
        models = list(dict.fromkeys(row.model for row in panel))
        width = 0.8 / len(models)
        for i, model in enumerate(models):
            found = {row.case.window: row for row in panel if row.model == model}
            places = [(j + (i - (len(models) - 1) / 2) * width, found[w]) for j, w in enumerate(windows) if w in found]
            heights = [row.median for _, row in places]
            spread = [[row.median - row.quartiles[0] for _, row in places],
                      [row.quartiles[1] - row.median for _, row in places]]
            axis.bar([x for x, _ in places], heights, width, yerr=spread, label=model, color=COLOURS.get(model))
        case = panel[0].case
        axis.set(xticks=range(len(windows)), xticklabels=windows, xlabel='window', ylabel='seconds (median)',
                 title=f'{case.mode}, {case.dtype}, {"compiled" if case.compiled else "eager"}\n'
                       f'{case.batch} x {case.size[0]}x{case.size[1]}')
        axis.legend(fontsize=7)
    return [save_figure(figure, path)]
