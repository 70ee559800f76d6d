"""Training batches with a number, which seeds their augmentation; the first ones can be skipped."""
from __future__ import annotations

import copy
from typing import Any, Iterable, Iterator, List, Optional

import numpy as np
import torch
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, get_worker_info

from .random_state import drawing_from, seed_generators


class NumberedBatch(list):
    """The indices of a batch, with the number of the batch."""

    def __init__(self, indices: Iterable[Any], number: int) -> None:
        super().__init__(indices)
        self.number = number


class NumberedBatches:
    """A batch sampler that numbers the batches of another one, and has its attributes.

    Args:
        batch_sampler: the other one.
        seed: of the samplers' own draws from torch's global generator, as in torch's
            ``RandomSampler``.

    Attributes:
        number (int): of the next batch.
    """

    def __init__(self, batch_sampler: Any, seed: int) -> None:
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.number = 0
        self._started: Optional[Iterator[List[Any]]] = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # missing while the object is copied
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __iter__(self) -> Iterator[NumberedBatch]:
        batches, self._started = self._started or self._start(), None
        for batch in batches:
            self.number += 1
            yield NumberedBatch(batch, self.number - 1)

    def skip(self, count: int) -> int:
        """Skip the first batches of the next iteration without loading anything.

        Returns:
            The number of times that the samplers were exhausted and restarted.
        """
        rounds = 0
        batches = self._start()
        for _ in range(count):
            if next(batches, None) is None:
                rounds += 1
                if hasattr(self.batch_sampler.sampler, 'set_epoch'):
                    self.batch_sampler.sampler.set_epoch(rounds)
                batches = self._start()
                next(batches)
            self.number += 1
        self._started = batches
        return rounds

    def _start(self) -> Iterator[List[Any]]:
        batches = iter(self.batch_sampler)
        with drawing_from(self.seed, self.number):
            first = next(batches, None)
        if first is not None:
            yield first
            yield from batches


class SeededItems:
    """Load the items of a :class:`NumberedBatch`, with draws that depend on its number and not on the process.

    This is a ``dataset.__getitems__``, which torch's loaders use in the main process and in workers.
    """

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank
        load = getattr(dataset, '__getitems__', None)
        self.load_batch = load.load_batch if isinstance(load, SeededItems) else load

    def __call__(self, batch: NumberedBatch) -> List[Any]:
        """Return the batch's items."""
        key = self.seed, self.rank, batch.number
        if get_worker_info() is not None:
            seed_generators(*key)  # and keep it: a collate_fn may draw too
            return self._load(batch)
        with drawing_from(*key):
            return self._load(batch)

    def _load(self, batch: NumberedBatch) -> List[Any]:
        return self.load_batch(batch) if self.load_batch else [self.dataset[index] for index in batch]


def number_batches(runner: Runner, seed: Optional[int] = None) -> Optional[NumberedBatches]:
    """Give each batch of a runner's training loader a number, and seed the random draws of its items with it.

    Args:
        runner: its training loop is built.
        seed: of the order of the samples. None: the sampler's own.

    Returns:
        The new batch sampler of the loader, whose next iteration starts at the samplers' beginning. None if the loader
        uses no indices (``IterableDataset``) or no batches; it is unchanged then.
    """
    loader: DataLoader = runner.train_loop.dataloader
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    batches = loader.batch_sampler
    batches = batches.batch_sampler if isinstance(batches, NumberedBatches) else batches
    unused = isinstance(runner.train_loop, EpochBasedTrainLoop)  # other loops have started their loader's workers
    if not (unused and seed in (None, sampler_seed(runner))):
        batches = _restart(batches, runner, sampler_seed(runner) if seed is None else seed)
    numbered = NumberedBatches(batches, runner.seed)
    # A loader refuses changes of its attributes, as an iterator might be running.
    object.__setattr__(loader, 'batch_sampler', numbered)
    object.__setattr__(loader, 'sampler', batches.sampler)
    loader._iterator = None  # the one of persistent workers, which have the old data set
    if loader.generator is None:
        loader.generator = torch.Generator()  # else each start of an iteration would draw from the global one
    loader.dataset.__getitems__ = SeededItems(loader.dataset, runner.seed, runner.rank)
    return numbered


def sampler_seed(runner: Runner) -> Optional[int]:
    """Return the seed of the order of the training samples, or None if the sampler has none."""
    seed = getattr(runner.train_loop.dataloader.sampler, 'seed', None)
    return int(seed) if isinstance(seed, (int, np.integer)) else None


def _restart(batches: Any, runner: Runner, seed: Optional[int]) -> Any:
    """Build the samplers of the training loader again from their config; without one, set the seed if there is any."""
    settings, loader = runner._train_dataloader, runner.train_loop.dataloader
    if not isinstance(settings, dict) or not isinstance(settings.get('sampler'), dict):
        if seed is not None:
            batches.sampler.seed = seed
        return batches
    sampler = DATA_SAMPLERS.build(copy.deepcopy(settings['sampler']),
                                  default_args=dict(dataset=loader.dataset, seed=seed))
    if settings.get('batch_sampler') is None:
        return BatchSampler(sampler, loader.batch_size, loader.drop_last)
    return DATA_SAMPLERS.build(copy.deepcopy(settings['batch_sampler']),
                               default_args=dict(sampler=sampler, batch_size=settings['batch_size']))
