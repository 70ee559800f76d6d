"""The cost of loading training images: each transform, the bytes a worker sends, the workers needed."""
from __future__ import annotations

import copy
import math
import pickle
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

import numpy as np
from mmdet.registry import DATASETS
from mmengine.config import Config

from ...engine.compact_masks_hook import load_compact_masks
from ...progress import track
from ...type_names import use_scope


@dataclass(frozen=True)
class LoaderCost:
    """The processor time of one core for an image.

    Attributes:
        transforms: milliseconds of each transform, median over images, in their order; of a transform that occurs
            twice, both together.
        total: milliseconds of the whole pipeline, median.
        mean: the same, mean.
        pickling: milliseconds of pickling the annotations, as a worker does before it sends them, median.
        sent: bytes of the pickled annotations, mean.
        image: bytes of the image tensor, which travels through shared memory, mean.
    """

    transforms: Dict[str, float]
    total: float
    mean: float
    pickling: float
    sent: float
    image: float

    @property
    def images_per_second(self) -> float:
        """Return the images that one worker loads per second."""
        return 1000 / (self.mean + self.pickling)

    def workers_for(self, step_ms: float, batch: int) -> int:
        """Return how many workers load a batch within a training step."""
        return max(1, math.ceil(batch * 1000 / step_ms / self.images_per_second))


def measure(cfg: Config, images: int = 100) -> Dict[str, LoaderCost]:
    """Measure the training pipeline as configured, and with compact masks if it loads bitmaps.

    Args:
        cfg: a config of mmdet's kind.
        images: maximum number; both pipelines load each with the same random numbers, in turns.

    Returns:
        Costs under 'as configured' and, if there are masks to load, 'compact masks'.
    """
    pipelines = {'as configured': _build(cfg)}
    compact = copy.deepcopy(pipelines['as configured'])
    if load_compact_masks(compact):
        pipelines['compact masks'] = compact
    spent: Dict[str, List[Dict[str, float]]] = {name: [] for name in pipelines}
    for index in track(range(min(images, len(compact))), 'images', transient=True):
        for name in list(pipelines)[::1 if index % 2 else -1]:
            np.random.seed(index)  # noqa: NPY002  mmdet's transforms draw from the global generator
            found = _load(pipelines[name], index)
            if found is not None:
                spent[name].append(found)
    return {name: _summary(rows) for name, rows in spent.items()}


def _build(cfg: Config) -> Any:
    use_scope(cfg)
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset.dataset
    built = DATASETS.build(dataset)
    built.full_init()
    return built


def _load(dataset: Any, index: int) -> Optional[Dict[str, float]]:
    """Return milliseconds of each transform and of pickling, and bytes; None if a transform drops the image."""
    row: Dict[str, float] = defaultdict(float)
    results = dataset.get_data_info(index)
    for transform in dataset.pipeline.transforms:
        start = time.thread_time()
        results = transform(results)
        row[type(transform).__name__.replace('LoadCompact', 'Load')] += (time.thread_time() - start) * 1000
        if results is None:
            return None
    start = time.thread_time()
    pickled = pickle.dumps(results['data_samples'], protocol=pickle.HIGHEST_PROTOCOL)
    row.update(pickling=(time.thread_time() - start) * 1000, sent=len(pickled), image=results['inputs'].nbytes)
    return row


def _summary(rows: List[Dict[str, float]]) -> LoaderCost:
    names = [name for name in rows[0] if name not in ('pickling', 'sent', 'image')]
    totals = [sum(row[name] for name in names) for row in rows]
    return LoaderCost(transforms={name: float(np.median([row[name] for row in rows])) for name in names},
                      total=float(np.median(totals)), mean=float(np.mean(totals)),
                      pickling=float(np.median([row['pickling'] for row in rows])),
                      sent=float(np.mean([row['sent'] for row in rows])),
                      image=float(np.mean([row['image'] for row in rows])))
