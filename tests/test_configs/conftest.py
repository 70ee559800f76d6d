"""A visualizer for each test: MMEngine keeps them for the life of a process, and hooks draw with the last one."""
from __future__ import annotations

from collections import OrderedDict

import pytest
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def _no_visualizer_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Visualizer, '_instance_dict', OrderedDict())
