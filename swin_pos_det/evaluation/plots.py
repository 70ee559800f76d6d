"""Pictures of an evaluation: precision over recall, and the confusion matrix."""
from __future__ import annotations

from pathlib import Path
from typing import Sequence, Union

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..visualization import save_figure
from .coco_eval import CocoScores
from .confusion import ConfusionMatrix
from .tables import KIND_NAMES

# Matrices of more classes get no numbers in their cells.
_MAX_ANNOTATED = 20


def plot_precision_recall(scores: Sequence[CocoScores], path: Union[str, Path], title: str = '') -> None:
    """Draw precision over recall, a line for each IoU threshold, a panel for each kind of results.

    Args:
        scores: of :func:`~swin_pos_det.evaluation.coco_eval.evaluate`, at least one.
        path: of the PNG; its folder is made.
        title: above the panels.
    """
    figure = Figure(figsize=(7.5 * len(scores), 5), layout='constrained')
    axes = figure.subplots(1, len(scores), squeeze=False)
    for axis, score in zip(axes[0], scores):
        colors = colormaps['viridis'](np.linspace(0.9, 0, len(score.iou_thresholds)))
        for threshold, precision, color in zip(score.iou_thresholds, score.precision, colors):
            axis.plot(score.recalls, precision, color=color, label=f'IoU {threshold:.2f}: AP {np.mean(precision):.3f}')
        axis.set(title=f'{KIND_NAMES[score.iou_type]}: AP {score.stats["AP"]:.3f}', xlabel='recall', xlim=(0, 1),
                 ylabel='precision, mean of classes', ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    save_figure(figure, path)


def plot_confusion_matrix(matrix: ConfusionMatrix, path: Union[str, Path], title: str = '') -> None:
    """Draw a confusion matrix: colour is the share of a row's objects, the number their count.

    Args:
        matrix: of :func:`~swin_pos_det.evaluation.confusion.confusion_matrix`.
        path: of the PNG; its folder is made.
        title: above the matrix.
    """
    counts = matrix.counts
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(5., 0.24 * len(counts) + 2.5) if len(counts) > _MAX_ANNOTATED else 0.55 * len(counts) + 2.5
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(share, cmap='Blues', vmin=0, vmax=1)
    if len(counts) <= _MAX_ANNOTATED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axis.text(column, row, str(count), ha='center', va='center', fontsize='small',
                          color='white' if share[row, column] > 0.5 else 'black')
    names = matrix.names + ['background']
    axis.set(xlabel='found', ylabel='true', xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    axis.set_xticks(range(len(names)), names, rotation=90)
    about = f'score >= {matrix.score_threshold:g}, IoU >= {matrix.iou_threshold:g}'
    axis.set_title(f'{title}\n{about}' if title else about)
    figure.colorbar(image, ax=axis, fraction=0.04, label='share of the row')
    save_figure(figure, path)
