"""The switches of single optimizations."""
from __future__ import annotations

import pytest

from swin_pos_det.errors import SettingError
from swin_pos_det.ops.optimizations import OPTIMIZATIONS, without


def test_unknown_names_are_refused_and_nothing_stays_off():
    before = dict(OPTIMIZATIONS)
    with pytest.raises(SettingError, match="SWIN_POS_DET_WITHOUT.*must be one of.*'onednn'.*got 'onedn'"), \
            without('chunks', 'onedn'):
        pass
    assert before == OPTIMIZATIONS
