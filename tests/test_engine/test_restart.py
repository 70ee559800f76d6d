"""Whether a process that torchrun started is one that came back."""
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from swin_pos_det.checkpoints import CheckpointError
from swin_pos_det.engine import restart, resume_after_restart


def save_training_state(path, **changes):
    """Save the least that can be resumed from."""
    torch.save({**dict(meta=dict(epoch=1, iter=4), state_dict=dict(weight=torch.ones(2)), message_hub=dict(
        log_scalars={}, runtime_info={}, resumed_keys={}), param_schedulers=[dict(last_step=1, _global_step=1)],
        optimizer=dict(state={}, param_groups=[dict(params=[0], lr=1.)])), **changes}, path)


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path), load_from='start.pth'))


@pytest.fixture
def saved(tmp_path):
    """Return a work dir with two checkpoints, the second of which is the last."""
    for epoch in (1, 2):
        save_training_state(tmp_path / f'epoch_{epoch}.pth')
        os.utime(tmp_path / f'epoch_{epoch}.pth', (epoch, epoch))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    return tmp_path


def test_the_first_start_changes_nothing(cfg):
    assert resume_after_restart(cfg) is None
    assert (cfg.load_from, cfg.get('resume')) == ('start.pth', None)


def test_a_checkpoint_of_this_job_is_resumed_from(cfg, saved):
    assert resume_after_restart(cfg) == cfg.load_from == str(saved / 'epoch_2.pth')
    assert cfg.resume is True


def test_one_of_an_earlier_training_is_not(cfg, saved, monkeypatch):
    monkeypatch.setattr(restart, '_parent_started', lambda: 2000.)
    os.utime(saved / 'last_checkpoint', (1000, 1000))
    assert resume_after_restart(cfg) is None


@pytest.mark.parametrize('content', [None, '', '/gone/epoch_3.pth'])
def test_a_process_killed_while_it_wrote_the_name(cfg, saved, content):
    if content is None:
        (saved / 'last_checkpoint').unlink()
        os.utime(saved / 'epoch_2.pth')
    else:
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
    """Of a process whose parent is a shell that was started a moment ago."""
    program = 'from swin_pos_det.engine import restart; print(restart._parent_started())'
    before = time.time()
    shell = subprocess.run(['sh', '-c', f'{sys.executable} -c "{program}"; true'], check=True, stdout=subprocess.PIPE)
    started = float(shell.stdout.split()[-1])    # the forks print on import
    assert started == 0 if not Path('/proc/stat').is_file() else before - 2 <= started <= time.time() + 2


@pytest.mark.parametrize(('value', 'want'), [(None, False), ('0', False), ('3', True)])
def test_only_torchruns_that_start_again_count(monkeypatch, value, want):
    monkeypatch.delenv('TORCHELASTIC_MAX_RESTARTS', raising=False)
    if value is not None:
        monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', value)
    assert restart.may_restart() is want
