"""Which checkpoint a training resumes from, and what is none."""
from __future__ import annotations

import os

import pytest
import torch
from mmengine.runner import find_latest_checkpoint

from swin_pos_det.checkpoints import CheckpointError, check_resumable, find_resumable
from tests.test_engine.test_restart import save_training_state


@pytest.fixture
def work_dir(tmp_path):
    """Return three epochs of which the last is half a file, an iteration, the best of a metric, and weights."""
    for age, name in enumerate(['epoch_1.pth', 'iter_6.pth', 'epoch_2.pth', 'best_acc_epoch_2.pth', 'weights.pth',
                                'epoch_3.pth']):
        save_training_state(tmp_path / name)
        os.utime(tmp_path / name, (age, age))
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), tmp_path / 'weights.pth')
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_3.pth').read_bytes()[:-100])
    return tmp_path


@pytest.mark.parametrize(('note', 'found'), [
    ('{}/iter_6.pth', 'iter_6.pth'), (None, 'epoch_2.pth'), ('', 'epoch_2.pth'), ('{}/gone.pth', 'epoch_2.pth'),
    ('/moved/here/epoch_1.pth', 'epoch_1.pth'), ('{}/iter_6.pt', 'epoch_2.pth')])
def test_the_noted_one_or_the_newest_whole_one(work_dir, note, found):
    if note is not None:
        (work_dir / 'last_checkpoint').write_text(note.format(work_dir))
    assert find_resumable(str(work_dir)) == str(work_dir / found)
    assert find_latest_checkpoint(str(work_dir)) == str(work_dir / found), 'MMEngine too'


@pytest.mark.parametrize('note', [None, ''])
def test_nothing_to_resume(tmp_path, note):
    if note is not None:
        (tmp_path / 'last_checkpoint').write_text(note)
    assert find_resumable(str(tmp_path)) is None
    assert find_resumable(str(tmp_path / 'no_folder')) is None


def test_errors(work_dir):
    (work_dir / 'last_checkpoint').write_text(f'{work_dir}/epoch_3.pth')
    with pytest.raises(CheckpointError, match=r'epoch_3.pth is truncated'):
        find_resumable(str(work_dir))
    for path in work_dir.glob('*.pth'):
        path.unlink()
    with pytest.raises(CheckpointError, match="epoch_3.pth', which does not exist, and no checkpoint in .* can be"):
        find_resumable(str(work_dir))


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(meta=3), 'meta.epoch is None'), (dict(meta=dict(epoch=1, iter=-1)), 'meta.iter is -1, not a number of iters'),
    (dict(meta=dict(epoch='1', iter=1)), "meta.epoch is '1'"),
    (dict(optimizer=[1]), 'optimizer state is a list'), (dict(optimizer=dict(state={})), 'no state and param_groups'),
    (dict(optimizer=dict(state=[], param_groups=[])), 'no state and param_groups'),
    (dict(optimizer=dict(state={0: 3}, param_groups=[])), 'no state and param_groups'),
    (dict(optimizer=dict(state={}, param_groups=[dict(lr=1)])), 'no state and param_groups'),
    (dict(optimizer=dict(a=3)), 'no state and param_groups'),
    (dict(message_hub=[]), 'its message_hub has no'),
    (dict(message_hub=dict(log_scalars={})), 'its message_hub has no'),
    (dict(param_schedulers=[3]), 'its param_schedulers are not'),
    (dict(param_schedulers=dict(a=3)), 'param_schedulers'),
    (dict(param_schedulers=[dict(last_step='1', _global_step=1)]), 'its param_schedulers are not'),
])
def test_malformed_training_states(tmp_path, changes, message):
    save_training_state(tmp_path / 'bad.pth', **changes)
    with pytest.raises(CheckpointError, match=rf'cannot resume from .*bad.pth: .*{message}.*load_from='):
        check_resumable(str(tmp_path / 'bad.pth'))


def test_whole_training_states(tmp_path):
    single = dict(state={}, param_groups=[dict(params=[0])])
    for changes in (dict(), dict(optimizer=dict(head=single, neck=single)), dict(param_schedulers=None),
                    dict(param_schedulers=dict(head=[dict(last_step=0, _global_step=0)]))):
        save_training_state(tmp_path / 'good.pth', **changes)
        check_resumable(str(tmp_path / 'good.pth'))
