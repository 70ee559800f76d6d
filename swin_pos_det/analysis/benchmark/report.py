"""Results: Markdown tables, a JSON file, and a dated record of machine, versions and command."""
from __future__ import annotations

import datetime
import itertools
import os
import platform
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .cases import Case, DetectorCase
from .flops import exponent, swin_flops
from .runner import AGREEMENT, Benchmark, Row
from .scenes import OBJECTS

BASELINE = 'mmdet'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _milliseconds(row: Row) -> str:
    if row.error or row.median is None:
        return row.error or '-'
    low, high = row.quartiles
    return f'{row.median * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f})'


def _ratio(above: Optional[float], below: Optional[float]) -> str:
    return f'{above / below:.2f}x' if above and below else '-'


def _difference(row: Row) -> str:
    if row.difference is None:
        return '-'
    return f'{row.difference:.0e}' + ('' if row.difference <= AGREEMENT else ' (pads or shifts otherwise)')


def floor_share(row: Row, variant: Mapping[str, Any], rates: Mapping[str, float]) -> Optional[float]:
    """Return the least time that the model's products could take on this machine, over the time it took."""
    if row.median is None or row.case.dtype not in rates or not isinstance(row.case, Case):
        return None
    return swin_flops(variant, row.case) / rates[row.case.dtype] / row.median


def backbone_tables(rows: Sequence[Row], variant: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    """Return, for each way of running, a table with a line for each case and model.

    Args:
        rows: of backbones.
        variant: for the floor.
        rates: FLOP/s of matrix products for each dtype.
    """
    parts = []
    ways = itertools.groupby(rows, lambda row: (row.case.dtype, row.case.compiled, row.case.mode))
    for (dtype, compiled, mode), group in ways:
        group = list(group)
        lines = []
        for _, cell in itertools.groupby(group, lambda row: row.case):
            cell = list(cell)
            by_name = {row.model: row for row in cell}
            baseline, ours = by_name.get(BASELINE), by_name.get('ours')
            for row in cell:
                share = floor_share(row, variant, rates)
                lines.append([
                    str(row.case.window), f'{row.case.size[0]}x{row.case.size[1]}', str(row.case.batch), row.model,
                    _milliseconds(row), _ratio(baseline and baseline.median, row.median),
                    _ratio(row.median, ours and ours.median), '-' if share is None else f'{share:.0%}',
                    '-' if row.mib is None else f'{row.mib:.0f}', _ratio(row.mib, baseline and baseline.mib),
                    _difference(row)])
        head = ['window', 'size', 'batch', 'model', 'ms (quartiles)', f'faster than {BASELINE}', 'ours is faster by',
                'of the floor', 'peak MiB', f'peak over {BASELINE}', 'difference']
        title = {'forward': 'Forward', 'train': 'Forward and backward'}[mode]
        parts.append(f'### {title}, {dtype}, {"compiled" if compiled else "eager"}\n\n' + table(head, lines))
    return '\n\n'.join(parts)


def detector_tables(rows: Sequence[Row]) -> str:
    """Return, for each case, the time with each backbone and its breakdown."""
    parts = []
    for case, cell in itertools.groupby(rows, lambda row: row.case):
        cell = list(cell)
        baseline = next((row for row in cell if row.model == BASELINE), None)
        lines = [[row.model, _milliseconds(row), _ratio(baseline and baseline.median, row.median),
                  '-' if row.mib is None else f'{row.mib:.0f}', _ratio(row.mib, baseline and baseline.mib),
                  '-' if row.found is None else f'{row.found:.0f}', _difference(row)] for row in cell]
        head = ['detector', 'ms (quartiles)', f'faster than {BASELINE}', 'peak MiB', f'peak over {BASELINE}',
                'objects per image', 'difference']
        text = f'### {str(case)[0].upper()}{str(case)[1:]}\n\n' + table(head, lines)
        text += _parts_table([row for row in cell if row.parts]) + _counts_table([row for row in cell if row.counts])
        parts.append(text)
    return '\n\n'.join(parts)


def _parts_table(rows: Sequence[Row]) -> str:
    """Milliseconds of each part of a detector's step; all outside the network's forward and backward together."""
    medians = {row.model: row.medians for row in rows}
    names = list(dict.fromkeys(name for found in medians.values() for name in found))
    lines = [[name] + [f'{found.get(name, 0) * 1e3:.1f} ({found.get(name, 0) / sum(found.values()):.0%})'
                       for found in medians.values()] for name in names]
    outside = [sum(seconds for name, seconds in found.items() if not name.endswith('ward'))
               for found in medians.values()]
    lines.append(['all but forward and backward'] + [f'{seconds * 1e3:.1f}' for seconds in outside])
    return '\n\n' + table(['part', *(f'{name}, ms' for name in medians)], lines) if rows else ''


def _counts_table(rows: Sequence[Row]) -> str:
    """Operators and waits of each part of a training step."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.medians, *row.counts]))
    lines = [[name] + [f'{operators}; {waits}' for operators, waits in (row.counts.get(name, (0, 0)) for row in rows)]
             for name in names if any(name in row.counts for row in rows)]
    lines.append(['all'] + ['{}; {}'.format(*map(sum, zip(*row.counts.values()))) for row in rows])
    return '\n\n' + table(['operators; waits', *(row.model for row in rows)], lines) if rows else ''


def growth_table(rows: Sequence[Row]) -> str:
    """Return the exponents of time and memory over pixels for each model, window and way with three sizes or more."""
    def key(row: Row) -> tuple:
        return row.case.dtype, row.case.compiled, row.case.mode, str(row.case.window), row.case.batch, row.model

    lines = []
    for name, group in itertools.groupby(sorted(rows, key=key), key):
        group = [row for row in group if row.error is None]
        fits = []
        for values in ([row.median for row in group], [row.mib for row in group]):
            points = [(row.case.pixels, value) for row, value in zip(group, values) if value]
            fits.append(f'{exponent(*zip(*points)):.2f}' if len({x for x, _ in points}) >= 3 else '-')
        if fits != ['-', '-']:
            dtype, compiled, mode, window, batch, model = name
            lines.append([mode, dtype, 'compiled' if compiled else 'eager', window, str(batch), model, *fits])
    head = ['mode', 'dtype', 'run', 'window', 'batch', 'model', 'time ~ pixels^', 'memory ~ pixels^']
    return '### Growth with the size of the image\n\n' + table(head, lines) if lines else ''


def machine(device: str) -> Dict[str, str]:
    """Describe the machine."""
    about = dict(system=platform.system(), processor=_processor(),
                 cores=str(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()))
    try:
        about['memory'] = f'{os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30:.0f} GiB'
    except (ValueError, OSError, AttributeError):
        about['memory'] = 'unknown'
    return dict(about, device=device)


def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            return next(line.partition(':')[2].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def result(rows: Sequence[Row], benchmark: Benchmark, device: str, threads: int, command: str) -> Dict[str, Any]:
    """Return the whole result for JSON: what ran where, how, and every single time."""
    return dict(
        command=command, date=datetime.date.today().isoformat(), machine=machine(device), threads=threads,
        settings=vars(benchmark.settings), versions=benchmark.pool.about, missing=benchmark.pool.missing,
        rates={dtype: dict(flops_per_second=rate, seconds=benchmark.products[dtype])
               for dtype, rate in benchmark.rates().items()},
        rows=[row.asdict() for row in rows])


def markdown(rows: Sequence[Row], benchmark: Benchmark) -> str:
    """Return the tables, and the models without a comparison."""
    backbones = [row for row in rows if isinstance(row.case, Case)]
    detectors = [row for row in rows if isinstance(row.case, DetectorCase)]
    parts = [backbone_tables(backbones, benchmark.variant, benchmark.rates()), growth_table(backbones),
             detector_tables(detectors)]
    rates = [f'{rate / 1e9:.0f} GFLOP/s in {dtype} (quartiles of {len(benchmark.products[dtype])} products: '
             f'{_quartiles(benchmark, dtype)})' for dtype, rate in benchmark.rates().items()]
    if rates:
        side = benchmark.settings.matmul
        parts.append(f'Matrix products of {side} x {side}, between the runs: ' + '; '.join(rates) + '.')
    parts += [f'Not compared: {name}: {why}.' for name, why in benchmark.pool.missing.items()]
    return '\n\n'.join(filter(None, parts))


def _quartiles(benchmark: Benchmark, dtype: str) -> str:
    seconds = benchmark.products[dtype]
    if len(seconds) < 2:
        return '-'
    quartiles = statistics.quantiles(seconds, n=4, method='inclusive')[::-2]
    return ' to '.join(f'{2 * benchmark.settings.matmul**3 / value / 1e9:.0f}' for value in quartiles)


def record(path: Path, title: str, data: Mapping[str, Any], tables: str, pictures: Sequence[Path]) -> None:
    """Write a record like those in docs/results.

    Args:
        path: of the Markdown file.
        title: its heading.
        data: of :func:`result`.
        tables: of :func:`markdown`.
        pictures: PNGs, linked relative to the file.
    """
    about = data['machine']
    versions: Dict[str, List[str]] = {}
    for name, found in data['versions'].items():
        versions.setdefault(f'Python {found["python"]}, torch {found["torch"]}', []).append(
            f'{name}: {found["library"]} {found["version"]}')
    settings = data['settings']
    device = next((found['device'] for found in data['versions'].values() if found['device']), None)
    where = (f'{about["processor"]}, {about["cores"]} cores, {about["memory"]}, {about["system"]}; device '
             f'{device or about["device"]}; {data["threads"]} threads')
    what = 'Detectors of the configs' if data['rows'] and 'config' in data['rows'][0] else f'Swin-{settings["variant"]}'
    how = (f'{what}; the same random weights and input for all; after {settings["warm_up"]} runs '
           f'to warm up {settings["repeats"]} turns of each model, interleaved, each of {settings["seconds"]:g} s or '
           'more; medians with quartiles')
    links = [f'![{picture.stem}]({os.path.relpath(picture, path.parent)})' for picture in pictures]
    body = '\n\n'.join([
        f'# {title}', f'Measured on {data["date"]}: {where}.', how + '.',
        'Versions: ' + '; '.join(f'{env} ({", ".join(names)})' for env, names in versions.items()) + '.',
        f'```\n{data["command"]}\n```', tables, *links, _LEGEND])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(body + '\n', encoding='utf-8')


_LEGEND = f"""\
- *faster than {BASELINE}*: its median time over the model's. *ours is faster by*: the model's median time over ours.
- *of the floor*: the time that the model's matrix products alone would take at the measured rate of large ones, over
  the time it took. Products with the padding of windows, without which the result is the same, do not count.
- *peak*: what two steps need beyond what is held before them: on the CPU the first two, in resident memory of a fresh
  process (not of compiled models, whose compilation leaves room for them); on CUDA what torch's allocator gave out.
- *difference*: greatest absolute difference between the model's features and ours, float32, eager. timm rolls before
  it pads, and torchvision does not shift maps as small as a window: there they compute another function, at the same
  cost. Before anything is timed, all must agree to {AGREEMENT:.0e} where maps divide by windows and are larger than
  one, which is measured at images of 64 times the window.
- *detector*: mmdet: its backbone and settings; ours: this backbone, mmdet's settings; fast: ours with
  configs/_base_/fast_training.py. Objects have COCO's sizes and polygons for masks, {OBJECTS} for each image.
- *losses and boxes*: of a head, without its layers: targets, losses, proposals, suppression.
- *operators; waits*: operators of torch that would launch a kernel on a GPU (no views, none inside mmcv's compiled
  extensions), and those at which the host would wait for it (numbers and sizes that are read, masks of bools as
  indices, copies to the host), counted in one step with parameters of a group updated together, as on a GPU."""
