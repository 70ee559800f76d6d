"""Models in these tests are small, but go the way of large ones."""
from __future__ import annotations

import pytest

from swin_pos_det.ops.cpu_inference import chunks


@pytest.fixture(autouse=True)
def _small_maps_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, 'MIN_NUMBERS', 1)
