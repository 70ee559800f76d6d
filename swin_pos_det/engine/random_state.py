"""The states of the random generators: saved in checkpoints, or seeded by a key."""
# ruff: noqa: NPY002 - data pipelines and MMEngine draw from NumPy's global generator
from __future__ import annotations

import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator

import numpy as np
import torch


def capture() -> Dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's global generators, as tensors and plain numbers.

    Returns:
        A dict with the keys ``python``, ``numpy``, ``torch`` and, where CUDA is in use, ``cuda``.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = dict(python=(version, torch.tensor(words), gauss),
                 numpy=(name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
                 torch=torch.get_rng_state())
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore(state: Dict[str, Any]) -> None:
    """Set the generators to what :func:`capture` returned; tensors may be on any device.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: if the state is invalid.
    """
    version, words, gauss = state['python']
    name, keys, position, has_gauss, cached = state['numpy']
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def seed_generators(*key: int) -> None:
    """Seed the CPU's global generators from ``key`` alone, integers from 0."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(int(seeds[2]))  # torch.manual_seed would reset the GPUs' generators too


@contextmanager
def drawing_from(*key: int) -> Iterator[None]:
    """Seed as :func:`seed_generators` does, and restore the generators afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(*key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
