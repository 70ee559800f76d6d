"""Checkpoints are there whole, or as they were before; what is not a file of ours is written in place."""
from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner.checkpoint import save_checkpoint

from swin_pos_det.checkpoints import CheckpointError, atomic_write, check_writable, load_checkpoint_file, remove_drafts

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
    with pytest.raises(CheckpointError, match=rf'cannot write .*last.pth \({os.strerror(number)}\); .* as it was'):
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
        with pytest.raises(CheckpointError, match=r'cannot write .*last.pth \(File too large\); .* as it was'):
            save_checkpoint(dict(state_dict={'weight': torch.zeros(2**21)}, meta={}), str(saved))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ['last.pth']


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'work').touch()
    with pytest.raises(CheckpointError, match='cannot write .*work/epoch_1.pth'):
        get_file_backend(str(tmp_path)).put(b'', tmp_path / 'work/epoch_1.pth')


def test_an_error_while_writing_passes_through(saved):

    def write():
        with atomic_write(saved) as draft:
            draft.write_bytes(b'half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in saved.parent.iterdir()] == ['last.pth']


def test_text_is_written_too(tmp_path):
    get_file_backend(str(tmp_path)).put_text('März', tmp_path / 'new/notes.txt')
    assert (tmp_path / 'new/notes.txt').read_text(encoding='utf-8') == 'März'


def test_a_link_goes_on_pointing_at_its_file(tmp_path):
    (tmp_path / 'big').mkdir()
    link, target = tmp_path / 'link.txt', tmp_path / 'big/target.txt'
    target.write_text('old')
    link.symlink_to(target)
    with atomic_write(link) as draft:
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
        with pytest.raises(CheckpointError, match=f'cannot write {wrong}'):
            check_writable(wrong)


# What is not a regular file of ours with one name is written in place, as open() does.

as_root = pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root can change owners')


def put(path, content=b'new'):
    get_file_backend(str(path)).put(content, str(path))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_is_also_what_open_raises(tmp_path):
    (tmp_path / 'work').touch()
    with pytest.raises(OSError, match='cannot write') as raised:
        put(tmp_path / 'work/epoch_1.pth')
    assert isinstance(raised.value, CheckpointError) and raised.value.errno == errno.ENOTDIR


@pytest.mark.parametrize('mode', [0o600, 0o640, 0o666, 0o755])
def test_mode_is_kept(tmp_path, mode):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    path.chmod(mode)
    before = path.stat().st_ino
    put(path)
    assert path.read_bytes() == b'new' and stat.S_IMODE(path.stat().st_mode) == mode
    assert path.stat().st_ino != before, 'it was replaced'


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / 'open').touch()
    put(tmp_path / 'put')
    assert (tmp_path / 'put').stat().st_mode == (tmp_path / 'open').stat().st_mode


@as_root
def test_owner_and_group_are_kept(tmp_path):
    for name, owner in (('other', (12345, 12345)), ('group', (-1, 12345))):
        path = tmp_path / name
        path.write_bytes(b'old')
        os.chown(path, *owner)
        before = path.stat()
        put(path)
        after = path.stat()
        assert path.read_bytes() == b'new'
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
        assert (after.st_ino == before.st_ino) is (name == 'other')


def test_hard_links_stay_one_file(tmp_path):
    (tmp_path / 'one').write_bytes(b'old')
    os.link(tmp_path / 'one', tmp_path / 'two')
    put(tmp_path / 'one')
    assert (tmp_path / 'two').read_bytes() == b'new' and (tmp_path / 'two').stat().st_nlink == 2


def test_chains_of_links_and_a_link_to_nothing(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'first').symlink_to('second')
    (tmp_path / 'second').symlink_to('folder/third')
    put(tmp_path / 'first', b'1')
    assert (tmp_path / 'folder/third').read_bytes() == b'1' and (tmp_path / 'first').is_symlink()
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(CheckpointError, match='cannot write .*loop'):
        put(tmp_path / 'loop')
    assert names(tmp_path) == ['first', 'folder', 'loop', 'second'] and names(tmp_path / 'folder') == ['third']


def test_attributes_are_kept(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    try:
        os.setxattr(path, 'user.note', b'mine')
    except (AttributeError, OSError):
        pytest.skip('no extended attributes here')
    put(path)
    assert path.read_bytes() == b'new' and os.getxattr(path, 'user.note') == b'mine'


def test_a_pipe_gets_what_is_written(tmp_path):
    pipe, seen = tmp_path / 'pipe', []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()), daemon=True)
    reader.start()
    put(pipe)
    reader.join(10)
    assert seen == [b'new'] and stat.S_ISFIFO(pipe.stat().st_mode) and names(tmp_path) == ['pipe']


def test_devices_stay_devices(tmp_path):
    put('/dev/null')
    check_writable('/dev/null')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)
    (tmp_path / 'link').symlink_to('/dev/null')
    put(tmp_path / 'link')
    assert (tmp_path / 'link').is_symlink() and names(tmp_path) == ['link']
    full = Path('/dev/full')
    if full.exists():
        with pytest.raises(CheckpointError, match='No space left on device.; it may be incomplete'):
            put(full)
        assert stat.S_ISCHR(full.stat().st_mode)


PRINTER = '''
import sys
from swin_pos_det.checkpoints.atomic import AtomicLocalBackend
AtomicLocalBackend().put_text("written to stdout", sys.argv[1])
'''


def test_stdout_as_a_pipe_and_as_a_file(tmp_path):
    link = tmp_path / 'out'
    link.symlink_to('/dev/stdout')
    with (tmp_path / 'file').open('wb') as file:
        runs = [subprocess.Popen([sys.executable, '-c', PRINTER, name], stdout=stdout)
                for name, stdout in (('/dev/stdout', subprocess.PIPE), (str(link), file))]
        output, _ = runs[0].communicate()
        assert [run.wait() for run in runs] == [0, 0]
        assert os.fstat(file.fileno()).st_nlink == 1, 'the open file was not replaced'
    assert output.endswith(b'written to stdout')
    assert (tmp_path / 'file').read_bytes().endswith(b'written to stdout')
    assert names(tmp_path) == ['file', 'out'] and link.is_symlink()


def test_a_mounted_file(tmp_path):
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.write_bytes(b'old')
    target.touch()
    if sys.platform != 'linux' or subprocess.run(['mount', '--bind', source, target], capture_output=True).returncode:
        pytest.skip('mounting is not allowed here')
    try:
        put(target)
        assert source.read_bytes() == target.read_bytes() == b'new' and names(tmp_path) == ['source', 'target']
    finally:
        subprocess.run(['umount', target], check=True)


@pytest.mark.parametrize('number', [errno.EBUSY, errno.EXDEV, errno.EPERM])
def test_where_renaming_is_not_possible(saved, monkeypatch, number):

    def fail(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'replace', fail)
    before = saved.stat().st_ino
    put(saved)
    assert saved.read_bytes() == b'new' and saved.stat().st_ino == before and names(saved.parent) == ['last.pth']


@pytest.mark.parametrize('number', [errno.EACCES, errno.EROFS])
def test_where_no_file_can_be_made_in_the_folder(saved, monkeypatch, number):
    real = os.open

    def fail(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, 'open', fail)
    before = saved.stat().st_ino
    check_writable(saved)
    put(saved)
    assert saved.read_bytes() == b'new' and saved.stat().st_ino == before


def test_the_longest_name(tmp_path):
    path = tmp_path / ('n' * 255)
    put(path)
    check_writable(path)
    assert path.read_bytes() == b'new' and names(tmp_path) == [path.name]


def test_an_error_in_place_says_so(tmp_path, monkeypatch):
    (tmp_path / 'one').write_bytes(b'old')
    os.link(tmp_path / 'one', tmp_path / 'two')

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(CheckpointError, match='No space left on device.; it may be incomplete'):
        put(tmp_path / 'one')


def test_drafts_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    """The drafts of several versions; of a name that concerns us or not; of a process that writes at this moment."""
    old = ['.iter_2.pth.abcdefgh.tmp', '.iter_10.pth.0a1b2c3d.tmp']
    others = ['.notes.txt.abcdefgh.tmp', '.iter_2.pth.tmp', 'iter_2.pth.abcdefgh.tmp', '.iter_2.pth.ABCDEFGH.tmp']
    for name in old + others:
        (tmp_path / name).touch()
    (tmp_path / '.iter_3.pth.abcdefgh.tmp').symlink_to(tmp_path / 'notes')
    (tmp_path / '.iter_4.pth.abcdefgh.tmp').mkdir()
    with atomic_write(tmp_path / 'iter_5.pth') as draft:
        draft.write_bytes(b'half')
        assert sorted(remove_drafts(tmp_path, lambda name: name.startswith('iter_'))) == sorted(old)
        assert draft.read_bytes() == b'half'
    assert names(tmp_path) == sorted([*others, '.iter_3.pth.abcdefgh.tmp', '.iter_4.pth.abcdefgh.tmp', 'iter_5.pth'])
