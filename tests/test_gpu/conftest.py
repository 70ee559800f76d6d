"""Tests that need a CUDA device: each skips, with the reason, where there is none."""
from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import pytest
import torch


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))
    # Slowest last: a run that is cut has most results.
    items.sort(key=lambda item: here in item.path.parents and item.get_closest_marker('slow') is not None)


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Compute float32 products in float32: TF32 keeps ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
