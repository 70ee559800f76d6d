from __future__ import annotations

from pathlib import Path

import pytest

from swin_pos_det.data import make_digits_on_photos


@pytest.fixture(scope='session')
def small_digits(tmp_path_factory) -> Path:
    """Return a data set of 24 + 24 images: enough for one empty image and one crowd in each split."""
    return make_digits_on_photos(tmp_path_factory.mktemp('data') / 'digits', 24, 24, progress=False)
