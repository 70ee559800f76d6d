"""Optimizations that can be switched off one by one, to measure the gain of each and to narrow down a bug.

``benchmark_backbone.py --ablate`` measures them. ``SWIN_POS_DET_WITHOUT=onednn,chunks`` switches some off from the
start.
"""
from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterable, Iterator

from ..errors import SettingError

# Whether each is on.
OPTIMIZATIONS = dict.fromkeys(('chunks', 'unpadded', 'onednn', 'bmm', 'merge_weights', 'gelu_recompute'), True)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Switch some of :data:`OPTIMIZATIONS` off for a while, in the whole process.

    Raises:
        SettingError: for another name.
    """
    before = dict(OPTIMIZATIONS)
    try:
        _switch_off(names)
        yield
    finally:
        OPTIMIZATIONS.update(before)


def _switch_off(names: Iterable[str]) -> None:
    for name in names:
        if name not in OPTIMIZATIONS:
            raise SettingError(f'an optimization to switch off (SWIN_POS_DET_WITHOUT) must be one of '
                               f'{sorted(OPTIMIZATIONS)}, got {name!r}')
        OPTIMIZATIONS[name] = False


_switch_off(filter(None, os.environ.get('SWIN_POS_DET_WITHOUT', '').split(',')))
