"""Checkpoints are there whole, or as they were before."""
from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import save_checkpoint

from swin_pos_det.checkpoints import CheckpointError, check_writable, load_checkpoint_file, replacing

# Writes checkpoints of 8 MB one after the other, as MMEngine's hook does.
WRITER = '''
import sys, torch, swin_pos_det.checkpoints
from mmengine.runner.checkpoint import save_checkpoint
for step in range(10**6):
    save_checkpoint(dict(state_dict={'weight': torch.full((2**21, ), float(step))}, meta={}), sys.argv[1])
    print('saved', step, flush=True)
'''


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(dict(state_dict={'weight': torch.ones(3)}, meta={}), str(tmp_path / 'last.pth'))
    return tmp_path / 'last.pth'


def test_a_checkpoint_is_readable_by_others_and_leaves_no_draft(saved):
    assert [path.name for path in saved.parent.iterdir()] == ['last.pth']
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o666 & ~mask
    assert torch.equal(load_checkpoint_file(saved)['state_dict']['weight'], torch.ones(3))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_keeps_the_last_good_file(saved, monkeypatch, number):
    before = saved.read_bytes()

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(CheckpointError, match=rf'last.pth cannot be written \({os.strerror(number)}\); .* as it was'):
        save_checkpoint(dict(state_dict={'weight': torch.zeros(3)}, meta={}), str(saved))
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ['last.pth']
    with pytest.raises(CheckpointError, match='nothing is left of it'):
        get_file_backend(str(saved)).put(b'new', saved.parent / 'new.pth')
    assert not (saved.parent / 'new.pth').exists()


def test_a_write_that_the_system_stops_in_the_middle(saved):
    """Really: no file of this process may be larger than 1 MB, and the checkpoint has 8."""
    resource = pytest.importorskip('resource')
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r'last.pth cannot be written \(File too large\); .* as it was'):
            save_checkpoint(dict(state_dict={'weight': torch.zeros(2**21)}, meta={}), str(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ['last.pth']


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'work').touch()
    with pytest.raises(CheckpointError, match='work/epoch_1.pth cannot be written'):
        get_file_backend(str(tmp_path)).put(b'', tmp_path / 'work/epoch_1.pth')


def test_an_error_while_writing_passes_through(saved):

    def write():
        with replacing(saved) as draft:
            draft.write_bytes(b'half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in saved.parent.iterdir()] == ['last.pth']


def test_text_is_written_too(tmp_path):
    get_file_backend(str(tmp_path)).put_text('März', tmp_path / 'new/notes.txt')
    assert (tmp_path / 'new/notes.txt').read_text(encoding='utf-8') == 'März'


@pytest.mark.slow
def test_a_link_goes_on_pointing_at_its_file(tmp_path):
    (tmp_path / 'big').mkdir()
    link, target = tmp_path / 'link.txt', tmp_path / 'big/target.txt'
    target.write_text('old')
    link.symlink_to(target)
    with replacing(link) as draft:
        draft.write_text('new')
    assert link.is_symlink() and target.read_text() == 'new'


def test_a_killed_writer_leaves_the_last_good_file(tmp_path):
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, '-c', WRITER, str(tmp_path / 'last.pth')], stdout=subprocess.PIPE,
                                  text=True)
        step = int(next(line for line in writer.stdout if line.startswith('saved')).split()[1])
        writer.send_signal(signal.SIGKILL)  # in the middle of the next
        writer.wait()
        weight = load_checkpoint_file(tmp_path / 'last.pth')['state_dict']['weight']
        assert weight.numel() == 2**21 and (weight == weight[0]).all() and weight[0] >= step


def test_whether_a_file_can_be_written(saved):
    before = saved.read_bytes()
    check_writable(saved)
    check_writable(saved.parent / 'new/file.json')
    assert saved.read_bytes() == before
    assert not list((saved.parent / 'new').iterdir())
    for wrong in (saved / 'file.json', saved.parent):
        with pytest.raises(CheckpointError, match=f'{wrong} cannot be written'):
            check_writable(wrong)
