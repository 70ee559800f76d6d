"""Whether a process that torchrun started is one that came back."""
from __future__ import annotations

import os
import time

import pytest
from mmengine.config import Config

from swin_pos_det.checkpoints import CheckpointError
from swin_pos_det.engine import restart, resume_after_restart


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path), load_from='start.pth'))


@pytest.fixture
def saved(tmp_path):
    """A work dir with two checkpoints, the second of which is the last."""
    for epoch in (1, 2):
        (tmp_path / f'epoch_{epoch}.pth').touch()
        os.utime(tmp_path / f'epoch_{epoch}.pth', (epoch, epoch))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    return tmp_path


def test_the_first_start_changes_nothing(cfg):
    assert resume_after_restart(cfg) is None
    assert (cfg.load_from, cfg.get('resume')) == ('start.pth', None)


def test_a_checkpoint_of_this_job_is_resumed_from(cfg, saved):
    assert resume_after_restart(cfg) == cfg.load_from == str(saved / 'epoch_2.pth')
    assert cfg.resume is True


def test_one_of_an_earlier_training_is_not(cfg, saved):
    before = time.time() - 86400
    os.utime(saved / 'last_checkpoint', (before, before))
    assert restart._parent_started() > before, 'this test is run by something younger than a day'
    assert resume_after_restart(cfg) is None


@pytest.mark.parametrize('content', ['', '/gone/epoch_3.pth'])
def test_a_process_killed_while_it_wrote_the_name(cfg, saved, content):
    (saved / 'last_checkpoint').write_text(content)
    assert resume_after_restart(cfg) == str(saved / 'epoch_2.pth')


def test_all_processes_take_the_same_way(cfg, saved, monkeypatch):
    """Another process knows of a checkpoint that this one would not have resumed from, or does not see its file."""

    def another(own, seen):
        def all_reduce(votes, op):
            assert op == 'max'
            votes.copy_(votes.maximum(votes.new_tensor([float(own), -float(seen)])))
        return all_reduce

    os.utime(saved / 'last_checkpoint', (1, 1))
    monkeypatch.setattr(restart, 'all_reduce', another(own=True, seen=True))
    assert resume_after_restart(cfg) == str(saved / 'epoch_2.pth')
    monkeypatch.setattr(restart, 'all_reduce', another(own=True, seen=False))
    with pytest.raises(CheckpointError, match='on a file system they share'):
        resume_after_restart(cfg)


def test_when_the_parent_was_started():
    started = restart._parent_started()
    assert started == 0 or time.time() - started < 86400 * 30


@pytest.mark.parametrize(('value', 'want'), [(None, False), ('0', False), ('3', True)])
def test_only_torchruns_that_start_again_count(monkeypatch, value, want):
    monkeypatch.delenv('TORCHELASTIC_MAX_RESTARTS', raising=False)
    if value is not None:
        monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', value)
    assert restart.may_restart() is want
