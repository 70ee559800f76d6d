"""Shared set-up: one seed, few threads, and paths of the real data some tests use."""
from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import swin_pos_det  # noqa: F401  registers the package's modules


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def coco_root() -> Path:
    """A folder in COCO's layout, from the environment; tests that need it skip without."""
    root = os.environ.get('COCO_ROOT')
    if not root:
        pytest.skip('COCO_ROOT is not set to a folder in COCO layout')
    return Path(root)
