"""A picture of the statistics of a data set."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Union

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
    sides = [np.sqrt(objects.box[kept[part], 2:].prod(1)) for part, objects in parts.items()]
    together = np.concatenate(sides)
    bins = np.geomspace(max(together.min(), 1), max(together.max(), 2), 24)
    of_sizes.hist(sides, bins, stacked=True, label=list(parts))
    of_sizes.set_xscale('log')
    of_sizes.set_xlabel('square root of width x height of the box, pixels of the image')
    for side in (32, 96):
        of_sizes.axvline(side, color='gray', linestyle=':', linewidth=1)
    of_sizes.set_title('sizes of objects (dotted: small, medium, large)')
    of_sizes.legend(frameon=False)
    return save_figure(figure, path)
