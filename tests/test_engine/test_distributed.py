"""Trainings and evaluations of several processes on the demo's data: uneven, sharded, killed, on two machines."""
from __future__ import annotations

import importlib.util
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
"""
FSDP = f"""
_base_ = ['tiny.py', '{jobs.ROOT}/configs/_base_/fsdp.py']
"""
KILLED = """
_base_ = 'tiny.py'
custom_hooks = [*_base_.custom_hooks, dict(type='KillHook', folder='.', iteration=3, evaluation=2)]
"""
FSDP_KILLED = """
_base_ = 'fsdp.py'
custom_hooks = [*_base_.custom_hooks, dict(type='KillHook', folder='fsdp_notes', iteration=3)]
"""
# DeepSpeed's wrapper takes none of the demo's settings except these two.
DEEPSPEED = f"""
_base_ = ['tiny.py', '{jobs.ROOT}/configs/_base_/deepspeed.py']
optim_wrapper = dict(_delete_=True, type='DeepSpeedOptimWrapper', optimizer={{{{_base_.optim_wrapper.optimizer}}}},
                     paramwise_cfg={{{{_base_.optim_wrapper.paramwise_cfg}}}})
"""
WITHOUT_DEEPSPEED = ('DeepSpeed is optional, and MMEngine imports it in every process where it is installed, so the '
                     'set-up leaves it out: pip install deepspeed==0.17.6 in the environment and run this again')
TABLE = 'backbone.stages.0.blocks.1.attn.w_msa.relative_position_bias_table'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder with configs, the data set, and a training of two processes, or two machines with one each."""
    folder = tmp_path_factory.mktemp('distributed')
    texts = dict(tiny=CONFIG, fsdp=FSDP, killed=KILLED, fsdp_killed=FSDP_KILLED, deepspeed=DEEPSPEED)
    for name, text in texts.items():
        (folder / f'{name}.py').write_text(text)
    (folder / 'fsdp_notes').mkdir()
    train(folder, 'tiny.py', 'plain')
    return folder


def train(folder, config, run, *arguments, **job):
    """Train in two processes, or as many as ``job`` says; assert success and return their output."""
    log = folder / f'{run}.log'
    job = {**dict(ranks=2), **job}
    statuses = jobs.launch(log, jobs.run_tool, 'train', folder, config, '--work-dir', run, *arguments, **job)
    text = log.read_text(errors='replace')
    assert set(statuses) == {0}, text[-4000:]
    return text


def entries(run):
    """Return the log entries of the newest start of a training."""
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


@pytest.fixture(scope='module')
def sharded(folder):
    """Return the output of FSDP: a training that is killed in the second epoch and resumed."""
    return train(folder, 'fsdp_killed.py', 'fsdp', restarts=1)


def test_fully_sharded_equals_data_parallel_though_it_is_killed(folder, sharded):
    """FSDP: the same weights as DDP's after a restart by itself, in a checkpoint that anyone can load."""
    assert (folder / 'fsdp_notes/killed_in_training').exists()
    assert 'restarted by torchrun: resuming from' in sharded
    for file in ('epoch_1.pth', 'epoch_2.pth'):
        assert distance(weights(folder / 'fsdp' / file), weights(folder / 'plain' / file)) < 1e-5
    assert distance(weights(folder / 'plain/epoch_1.pth'), weights(folder / 'plain/epoch_2.pth')) > 1e-4


@pytest.mark.parametrize(('config', 'source'), [('fsdp.py', 'plain'), ('tiny.py', 'fsdp')])
def test_either_resumes_from_the_others_checkpoints(folder, sharded, config, source):
    """FSDP from the first epoch of DDP, and DDP from that of FSDP; the averages of the optimizer go along."""
    run = f'from_{source}'
    train(folder, config, run, '--resume', f'{source}/epoch_1.pth')
    assert distance(weights(folder / run / 'epoch_2.pth'), weights(folder / 'plain/epoch_2.pth')) < 1e-5
    saved = load_checkpoint_file(folder / run / 'epoch_2.pth')['optimizer']
    assert saved['base_param_settings']['lr'] == pytest.approx(saved['param_groups'][0]['lr']), 'it is scheduled too'
    assert len(saved['state']) == len(weights(folder / 'plain/epoch_1.pth'))
    assert all((found['exp_avg_sq'] >= 0).all() for found in saved['state'].values())


def test_fully_sharded_resumes_at_another_window(folder):
    """The averages of resampled tables start from zero."""
    train(folder, 'fsdp.py', 'window', '--resume', 'plain/epoch_1.pth', '--cfg-options', 'model.backbone.window_size=5')
    state = load_checkpoint_file(folder / 'window/epoch_2.pth')['optimizer']['state']
    assert state[TABLE]['exp_avg'].shape == (9 * 9, 1)
    assert {name for name, found in state.items() if found['step'] == 2} == {name for name in state if 'table' in name}
    assert {int(found['step']) for found in state.values()} == {2, 4}


@pytest.mark.skipif(importlib.util.find_spec('deepspeed') is None, reason=WITHOUT_DEEPSPEED)
def test_deepspeed_equals_data_parallel(folder):
    """ZeRO, stage 2: the same weights, also when it resumes."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    train(folder, 'deepspeed.py', 'deepspeed')
    train(folder, 'deepspeed.py', 'deepspeed_on', '--resume', 'deepspeed/epoch_1.pth')
    for run in ('deepspeed', 'deepspeed_on'):
        found = get_fp32_state_dict_from_zero_checkpoint(str(folder / run), tag='epoch_2.pth')
        assert distance(dict(found), weights(folder / 'plain/epoch_2.pth')) < 1e-5


def evaluate(folder, checkpoint, run, ranks):
    """Return the figures, and the predictions of each image, of tools/test.py in so many processes."""
    arguments = ['tiny.py', checkpoint, '--work-dir', run, '--out', f'{run}.pkl']
    if ranks > 1:
        log = folder / f'{run}.log'
        assert jobs.launch(log, jobs.run_tool, 'test', folder, *arguments, ranks=ranks) == [0], log.read_text()[-4000:]
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert load_tool('test.py').main(arguments) == 0
    figures = json.loads(next((folder / run).glob('*/*.json')).read_text())
    return coco_figures(figures), pickle.loads((folder / f'{run}.pkl').read_bytes())


def coco_figures(figures):
    found = {key: value for key, value in figures.items() if key.startswith('coco/')}
    assert 'coco/segm_mAP' in found
    return found


def assert_same_evaluation(one, other):
    """Assert that each figure, and each prediction of each image, is equal to the last bit."""
    assert one[0] == other[0]
    assert [len(found) for _, found in (one, other)] == [3, 3]
    for first, second in zip(one[1], other[1]):
        assert first['img_id'] == second['img_id'] and len(first['pred_instances']['scores']) > 0
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(first['pred_instances'][key], second['pred_instances'][key])
        assert first['pred_instances']['masks'] == second['pred_instances']['masks']


def test_two_processes_evaluate_as_one(folder):
    """3 images on 2 processes, each prediction and each figure the same; a killed process ends it, with an error."""
    one, two = (evaluate(folder, 'plain/epoch_2.pth', f'evaluated_by_{ranks}', ranks) for ranks in (1, 2))
    assert_same_evaluation(one, two)
    killed = jobs.launch(folder / 'three.log', jobs.run_tool, 'test', folder, 'killed.py', 'plain/epoch_2.pth',
                         '--work-dir', 'three', ranks=2)
    assert killed != [0] and (folder / 'killed_in_test').exists()


def test_four_processes_train_and_evaluate(folder):
    """5 images one at a time: 2 steps an epoch, three images twice; 3 images to evaluate, one of them twice."""
    train(folder, 'tiny.py', 'four', '--cfg-options', 'train_dataloader.batch_size=1', ranks=4)
    logged = entries(folder / 'four')
    steps = [entry for entry in logged if 'loss' in entry]
    assert [entry['iter'] for entry in steps] == [1, 2, 3, 4] and steps[-1]['loss'] < steps[0]['loss']
    one, four = (evaluate(folder, 'four/epoch_2.pth', f'four_evaluated_by_{ranks}', ranks) for ranks in (1, 4))
    assert_same_evaluation(one, four)
    assert coco_figures(logged[-1]) == one[0], 'the evaluation in training'
