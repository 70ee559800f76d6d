"""Trainings and evaluations of several processes on the demo's data: uneven, sharded, killed, on two machines."""
from __future__ import annotations

import json
import pickle

import pytest
import torch

from swin_pos_det.checkpoints import load_checkpoint_file
from tests.test_engine import jobs
from tests.test_tools.conftest import load_tool

pytestmark = pytest.mark.slow

IMAGES, EPOCHS = 5, 2
CONFIG = f"""
_base_ = '{jobs.ROOT}/configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
custom_imports = dict(imports=['swin_pos_det', 'tests.test_engine.jobs'])
recipe = dict(num_train={IMAGES}, num_val=3, seed=5, data_root='digits')
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(128, 128), keep_ratio=True), dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                        dataset=dict(filter_cfg=None, pipeline=pipeline, **recipe))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=recipe)
test_dataloader = val_dataloader
val_evaluator = dict(metric=['bbox', 'segm', 'proposal'])
test_evaluator = val_evaluator
model = dict(test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=1000), rcnn=dict(score_thr=0., max_per_img=200)))
train_cfg = dict(max_epochs={EPOCHS}, val_interval={EPOCHS})
optim_wrapper = dict(clip_grad=None)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=2))
custom_hooks = [dict(type='SeedEpochsHook')]
"""
FSDP = f"""
_base_ = ['tiny.py', '{jobs.ROOT}/configs/_base_/fsdp.py']
"""
KILLED = """
_base_ = 'tiny.py'
custom_hooks = [dict(type='SeedEpochsHook'), dict(type='KillHook', folder='.', iteration=3, evaluation=2)]
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """With configs, the data set, and a training of two processes, or two machines with one each."""
    folder = tmp_path_factory.mktemp('distributed')
    for name, text in dict(tiny=CONFIG, fsdp=FSDP, killed=KILLED).items():
        (folder / f'{name}.py').write_text(text)
    train(folder, 'tiny.py', 'plain')
    return folder


def train(folder, config, run, *arguments, **job):
    """Two processes, unless ``job`` says otherwise; they must succeed. Returns what they printed."""
    log = folder / f'{run}.log'
    job = {**dict(ranks=2), **job}
    statuses = jobs.launch(log, jobs.run_tool, 'train', folder, config, '--work-dir', run, *arguments, **job)
    text = log.read_text(errors='replace')
    assert set(statuses) == {0}, text[-4000:]
    return text


def entries(run):
    """What the newest start of a training logged."""
    newest = sorted(run.glob('*/vis_data/scalars.json'))[-1]
    return [json.loads(line) for line in newest.read_text().splitlines()]


def weights(path):
    return load_checkpoint_file(path)['state_dict']


def distance(one, other):
    assert set(one) == set(other)
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_an_uneven_last_batch(folder):
    """5 images, 2 processes, batches of 2: each gets 3, one of them twice in all, as a batch of 2 and one of 1."""
    steps = [entry['iter'] for entry in entries(folder / 'plain') if 'loss' in entry]
    assert steps == [1, 2, 3, 4]
    assert load_checkpoint_file(folder / 'plain/epoch_2.pth')['meta']['iter'] == 4


def test_comes_back_from_sigkill_in_training_and_in_evaluation_on_two_machines(folder):
    """Killed in the second epoch, restarted, killed in the last evaluation, restarted: as if nothing had happened."""
    text = train(folder, 'killed.py', 'killed', ranks=1, nodes=2, restarts=2)
    assert (folder / 'killed_in_training').exists()
    assert (folder / 'killed_in_evaluation').exists()
    assert 'restarted by torchrun: resuming from' in text
    assert 'the evaluation due at iteration 4 was not finished: evaluating' in text
    for epoch in (1, 2):
        killed, plain = (load_checkpoint_file(folder / run / f'epoch_{epoch}.pth') for run in ('killed', 'plain'))
        assert killed['meta']['iter'] == plain['meta']['iter'] == 2 * epoch
        assert distance(killed['state_dict'], plain['state_dict']) == 0
    metrics = [{key: value for key, value in entries(folder / run)[-1].items() if key.startswith('coco/')}
               for run in ('killed', 'plain')]
    assert metrics[0] == metrics[1]
    assert 'coco/segm_mAP' in metrics[0]


def test_fully_sharded_equals_data_parallel(folder):
    """FSDP: the same weights, in a checkpoint that anyone can load."""
    train(folder, 'fsdp.py', 'fsdp', '--cfg-options', 'train_cfg.max_epochs=1')
    plain = weights(folder / 'plain/epoch_1.pth')
    assert distance(weights(folder / 'fsdp/epoch_1.pth'), plain) < 1e-5
    assert distance(plain, weights(folder / 'plain/epoch_2.pth')) > 1e-4


def test_two_processes_evaluate_as_one(folder):
    """3 images on 2 processes, each prediction and each figure the same; a killed process ends it, with an error."""
    arguments = ['tiny.py', 'plain/epoch_2.pth', '--work-dir']
    log = folder / 'test.log'
    assert jobs.launch(log, jobs.run_tool, 'test', folder, *arguments, 'two', '--out', 'two.pkl', ranks=2) == [0]
    killed = jobs.launch(log, jobs.run_tool, 'test', folder, 'killed.py', 'plain/epoch_2.pth', '--work-dir', 'three',
                         ranks=2)
    assert killed != [0] and (folder / 'killed_in_test').exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert load_tool('test.py').main([*arguments, 'one', '--out', 'one.pkl']) == 0
    one, two = (json.loads(next((folder / name).glob('*/*.json')).read_text()) for name in ('one', 'two'))
    figures = [key for key in one if key.startswith('coco/')]
    assert figures
    assert {key: one[key] for key in figures} == {key: two[key] for key in figures}
    predictions = [pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in ('one', 'two')]
    assert [len(found) for found in predictions] == [3, 3]
    for first, second in zip(*predictions):
        assert first['img_id'] == second['img_id'] and len(first['pred_instances']['scores']) > 0
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(first['pred_instances'][key], second['pred_instances'][key])
        assert first['pred_instances']['masks'] == second['pred_instances']['masks']
