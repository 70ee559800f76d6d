"""Every odd input of the table gets its line, from the check that the tools make."""
from __future__ import annotations

import logging
import re

import pytest
from mmengine.logging import MMLogger

from swin_pos_det.cli.data_checks import check_configured
from swin_pos_det.cli.runner import check_data
from swin_pos_det.errors import UserError

from .odd_inputs import ERROR, PASSES, ROWS, Scene


@pytest.fixture
def said(caplog):
    """Return warnings and other lines of MMEngine's logger."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda level=0: '\n'.join(record.getMessage() for record in caplog.records if record.levelno >= level)
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_odd_inputs(row, tmp_path, said, monkeypatch):
    monkeypatch.delenv('COCO_ROOT', raising=False)
    monkeypatch.setattr('logging.raiseExceptions', False)
    scene = Scene(tmp_path)
    row.change(scene)
    scene.write_all()

    def check():
        check_data(scene.cfg, scene.parts)
        if scene.checkpoint:
            check_configured(scene.cfg, scene.parts, scene.checkpoint)

    if row.how == ERROR:
        with pytest.raises(UserError) as raised:
            check()
        assert re.search(row.line, str(raised.value)), str(raised.value)
        assert '\n' not in str(raised.value)
    else:
        check()
        assert re.search(row.line, said(), re.DOTALL), said()
    if row.how == PASSES:
        assert said(logging.WARNING) == ''


def test_the_table():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) >= 90
    assert all(row.otherwise for row in ROWS)
