"""Killed at any operation on a file, a training ends with the same weights, and no whole checkpoint is lost."""
from __future__ import annotations

from functools import partial

import pytest

from tests.test_engine.kills import kill_everywhere, training

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('by_epoch', [True, False])
def test_it_ends_as_if_nothing_had_happened(tmp_path, by_epoch):
    """At every second operation on checkpoints and what names them, and some on logs; docs/reliability.md has all.

    By iterations the same code writes them: an eighth will do.
    """
    kills = kill_everywhere(tmp_path, partial(training, by_epoch=by_epoch, end=2 if by_epoch else 8),
                            every=2 if by_epoch else 8, logs=5)
    assert kills.want.iteration == 8 and len(kills.ends) > (45 if by_epoch else 10)
    assert set(kills.first) == {None}
    assert kills.counts(kills.ends) == {'the same': len(kills.ends)}
    assert kills.lost == 0
    assert set(kills.saved) == {-1, 4, 8}


def test_a_full_disk(tmp_path):
    """From any moment on: one line, and a training that goes on when there is room."""
    kills = kill_everywhere(tmp_path, partial(training, end=2), full_disk=True, every=12)
    assert len(kills.ends) > 10
    assert kills.counts(kills.first) == {'one line': len(kills.ends)}
    assert kills.counts(kills.ends) == {'the same': len(kills.ends)}
    assert kills.lost == 0
