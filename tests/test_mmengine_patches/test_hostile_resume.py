"""A checkpoint that is resumed from runs no code, and has nothing removed that the run has not written."""
from __future__ import annotations

import os
import shutil
from collections import OrderedDict

import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.runner import FlexibleRunner

from swin_pos_det.checkpoints import load_checkpoint_file
from swin_pos_det.errors import SettingError
from swin_pos_det.mmengine_patches.loading import drop_config, dropping_config
from tests.test_engine.test_checkpoint_hook import evaluated, make_runner
from tests.test_engine.test_resume import Images, TinyDetector


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return the work dir of a training of one epoch, with its evaluation."""
    folder = tmp_path_factory.mktemp('trained')
    make_runner(folder, 1, save_best='acc', settings=evaluated()).train()
    return folder


@pytest.fixture(scope='module')
def checkpoint(trained):
    return load_checkpoint_file(trained / 'epoch_1.pth')


def flexible_runner(folder, epochs, **settings):
    loader = dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=Images(),
                  collate_fn=dict(type='default_collate'))
    return FlexibleRunner(
        TinyDetector((7, 7)), work_dir=str(folder), strategy=dict(type='SingleDeviceStrategy'),
        train_dataloader=loader, train_cfg=dict(by_epoch=True, max_epochs=epochs), default_scope='mmdet',
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)), experiment_name=f'flexible{folder}', **settings)


def resume_by_config(folder, file):
    return make_runner(folder, 2, settings=dict(load_from=str(file), resume=True))


def resume_the_last(folder, file):
    (folder / 'last_checkpoint').write_text(str(file))
    return make_runner(folder, 2, settings=dict(resume=True))


def resume_in_python(folder, file):
    made = make_runner(folder, 2)
    made.train_loop  # noqa: B018  builds it, which resuming needs
    made.resume(str(file))
    return made


def resume_a_flexible_runner(folder, file):
    return flexible_runner(folder, 2, load_from=str(file), resume=True)


def resume_a_flexible_runner_by_name(folder, file):
    return flexible_runner(folder, 2, resume=str(file))


@pytest.mark.parametrize('resume', [resume_by_config, resume_the_last, resume_in_python, resume_a_flexible_runner,
                                    resume_a_flexible_runner_by_name])
def test_the_config_in_a_checkpoint_is_not_run(checkpoint, tmp_path, resume):
    marker, file = tmp_path / 'ran', tmp_path / 'hostile.pth'
    code = f"a = open({str(marker)!r}, 'w')\n"
    torch.save(dict(checkpoint, meta=dict(checkpoint['meta'], config=code), param_schedulers=[]), file)
    made = resume(tmp_path, file)
    made.train()
    assert made.epoch == 2 and not marker.exists()


def test_what_strategies_return_has_no_config():
    resume = dropping_config(lambda name: OrderedDict(meta=dict(epoch=3, config=name)))
    assert resume('raise SystemExit') == dict(meta=dict(epoch=3))


@pytest.mark.parametrize('meta', [None, 3, [], 'config', dict(epoch=1)])
def test_other_metadata_stays_as_it_is(meta):
    found = dict(meta=meta)
    drop_config(None, found)
    assert found['meta'] is meta


# Entries of a file about the best checkpoint so far, and those to be removed.

def hostile(checkpoint, file, **info):
    hub = dict(checkpoint['message_hub'])
    hub['runtime_info'] = dict(hub['runtime_info'], best_score=-1., **info)
    hub['resumed_keys'] = dict(hub['resumed_keys'], **dict.fromkeys(info, True))
    torch.save(dict(checkpoint, message_hub=hub), file)


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


VICTIMS = {
    'a folder': lambda work, victim: str(victim),
    'a file': lambda work, victim: str(victim / 'notes.txt'),
    'by dots': lambda work, victim: str(work / '..' / victim.name),
    'dots behind a name': lambda work, victim: str(work / 'epoch_1.pth' / '..' / '..' / victim.name),
    'the folder of the run': lambda work, victim: str(work),
    'a folder of the run': lambda work, victim: str(work / 'pictures'),
    'a file beside the checkpoints': lambda work, victim: str(work / 'mine.pth'),
    'a checkpoint of another run': lambda work, victim: str(work / 'best_acc_epoch_9.pth'),
    'through a link': lambda work, victim: str(work / 'link'),
    'a link': lambda work, victim: str(work / 'best_acc_epoch_8.pth'),
    'no path': lambda work, victim: 'a\0b',
}


@pytest.mark.parametrize('name', VICTIMS)
@pytest.mark.parametrize('known', [True, False])
def test_nothing_of_others_is_removed(trained, checkpoint, tmp_path, name, known):
    """Whether the file takes the place of the run's own last checkpoint, or comes from elsewhere."""
    work, victim = tmp_path / 'work', tmp_path / 'victim'
    (victim / 'deep').mkdir(parents=True)
    shutil.copytree(trained, work)
    (work / 'pictures').mkdir()
    for file in (victim / 'notes.txt', work / 'mine.pth', work / 'best_acc_epoch_9.pth'):
        file.write_text('mine')
    (work / 'link').symlink_to(victim)
    (work / 'best_acc_epoch_8.pth').symlink_to(victim / 'notes.txt')
    file = work / ('epoch_1.pth' if known else 'hostile.pth')
    hostile(checkpoint, file, best_ckpt=VICTIMS[name](work, victim))
    before, others = contents(victim), set(contents(work)) - {'epoch_1.pth'}
    made = make_runner(work, 2, save_best='acc', published_keys=['state_dict'],
                       settings=dict(evaluated(), load_from=str(file), resume=True))
    made.train()
    assert contents(victim) == before and others <= set(contents(work))
    assert (work / 'best_acc_epoch_2.pth').is_file() and (work / 'epoch_2.pth').is_file()
    assert (work / 'epoch_1.pth').is_file() is not known, 'what the run has written itself is removed as ever'


@pytest.mark.parametrize('ids', [['/../../victim'], [[1]], 'abc', 7, [3, 9], [-1], None, [True]])
def test_no_list_of_checkpoints_removes_what_the_run_has_not_written(trained, checkpoint, tmp_path, ids):
    work = tmp_path / 'work'
    shutil.copytree(trained, work)
    (tmp_path / 'victim').mkdir()
    for epoch in (3, 9, -1):
        (work / f'epoch_{epoch}.pth').write_text('mine')
    hostile(checkpoint, work / 'epoch_1.pth', keep_ckpt_ids=ids)
    make_runner(work, 2, settings=dict(load_from=str(work / 'epoch_1.pth'), resume=True)).train()
    assert (tmp_path / 'victim').is_dir()
    assert all((work / f'epoch_{epoch}.pth').read_text() == 'mine' for epoch in (3, 9, -1))
    assert load_checkpoint_file(work / 'epoch_2.pth')['message_hub']['runtime_info']['keep_ckpt_ids'][-1] == 2


@pytest.mark.parametrize('info', [dict(best_ckpt=3), dict(best_ckpt=['a']), dict(best_score_of='x')])
def test_other_types_are_ignored(checkpoint, tmp_path, info):
    file = tmp_path / 'file.pth'
    hostile(checkpoint, file, **info)
    make_runner(tmp_path, 2, save_best='acc', settings=dict(evaluated(), load_from=str(file), resume=True)).train()
    assert (tmp_path / 'best_acc_epoch_2.pth').is_file()
    assert os.listdir(tmp_path).count('epoch_2.pth') == 1


def test_an_inferencer_does_not_run_the_config_in_a_checkpoint(tmp_path):
    program = f'open({str(tmp_path / "ran")!r}, "w").close()\n'
    for name, parts in (('meta', dict(meta=dict(cfg=program))),
                        ('hub', dict(message_hub=dict(runtime_info=dict(cfg=program))))):
        torch.save({'state_dict': {'w': torch.ones(1)}, **parts}, tmp_path / f'{name}.pth')
        with pytest.raises(SettingError, match=rf'the config in \S*{name}.pth is Python code'):
            DetInferencer(weights=str(tmp_path / f'{name}.pth'))
    assert not (tmp_path / 'ran').exists()
