"""A picture of the statistics of a data set."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np

from ..data.objects import Objects, learned
from ..data.statistics import count_classes
from ..visualization import save_figure

# Classes with the most objects that are shown.
_MAX_CLASSES = 40


def plot_statistics(parts: Mapping[str, Objects], path: Union[str, Path]) -> Path:
    """Write a PNG with the objects and images of each class, and the sizes of objects.

    Args:
        parts: name of a part of the data set -> its objects; all with the same classes.
        path: of the PNG; overwritten.

    Returns:
        The file.
    """
    from matplotlib.figure import Figure
    kept = {part: learned(objects)[0] for part, objects in parts.items()}
    counts = {part: count_classes(objects, kept[part]) for part, objects in parts.items()}
    total = np.sum([[one.objects for one in classes] for classes in counts.values()], axis=0)
    order = np.argsort(-total, kind='stable')[:_MAX_CLASSES]
    names = next(iter(parts.values())).names
    figure = Figure(figsize=(13, max(4., 0.28 * len(order) + 1.5)), layout='constrained')
    of_objects, of_images, of_sizes = figure.subplots(1, 3)
    for axes, key in ((of_objects, 'objects'), (of_images, 'images')):
        left = np.zeros(len(order))
        for part, classes in counts.items():
            values = np.array([getattr(classes[row], key) for row in order])
            axes.barh(np.arange(len(order)), values, left=left, label=part)
            left += values
        axes.set_yticks(np.arange(len(order)), [names[row].replace('$', r'\$') for row in order])
        axes.invert_yaxis()
        axes.set_title(f'{key} of each class' + ('' if len(order) == len(names) else f' (the first {len(order)} of '
                                                                                      f'{len(names)})'))
        axes.legend(frameon=False)
    _plot_sizes(of_sizes, [np.sqrt(objects.box[kept[part], 2:].prod(1)) for part, objects in parts.items()],
                list(parts))
    return save_figure(figure, path)


def _plot_sizes(axes: Any, sides: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Draw the histogram of sides in pixels, two bins for each doubling."""
    exponents = np.log2(np.maximum(np.concatenate(sides), 1))
    low, high = math.floor(exponents.min()), math.floor(exponents.max()) + 1
    axes.hist(sides, 2. ** np.arange(low, high + 0.1, 0.5), stacked=True, label=names)
    axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter('{x:g}')
    axes.yaxis.get_major_locator().set_params(integer=True)
    for side in (32, 96):
        axes.axvline(side, color='gray', linestyle=':', linewidth=1)
    axes.set_title('sizes of objects (dotted: 32 and 96 px)')
    axes.set_xlabel('side of the box, sqrt(w h), in pixels')
    axes.legend(frameon=False)
