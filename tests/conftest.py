"""Shared set-up: one seed, mmdet's registries, and paths of the real data some tests use."""
from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

import swin_pos_det  # noqa: F401  registers the package's modules


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none is left to one worker when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _mmdet_scope() -> Iterator[None]:
    # A Runner leaves its scope behind; where a type is looked up must not depend on which tests ran before.
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(scope='session')
def coco_root() -> Path:
    """Return a folder in COCO's layout, from the environment; skip tests that need it without one."""
    root = os.environ.get('COCO_ROOT')
    if not root:
        pytest.skip('COCO_ROOT is not set to a folder in COCO layout')
    return Path(root)
