"""Each setting of a training by a flag or a one-line override, through tools/train.py, and what it does."""
from __future__ import annotations

import errno
import os

import pytest
import torch
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from torch.utils.checkpoint import checkpoint

from swin_pos_det.checkpoints import load_checkpoint_file
from swin_pos_det.cli.runner import load_config
from swin_pos_det.engine import check_strategy, choose_runner, strategies
from tests.test_engine.test_checkpoint_hook import Rising  # noqa: F401  registers it
from tests.test_engine.test_resume import Images, TinyDetector  # noqa: F401
from tests.test_tools.conftest import ROOT

DATASETS.register_module(name='FourImages', module=Images, force=True)
CONFIG = """
custom_imports = dict(imports=['swin_pos_det'])
default_scope = 'mmdet'
model = dict(type='TinyDetector', window=7)
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                        dataset=dict(type='FourImages'), collate_fn=dict(type='default_collate'))
val_dataloader = train_dataloader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
val_cfg = dict()
val_evaluator = dict(type='Rising')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1),
                     checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))
auto_scale_lr = dict(enable=False, base_batch_size=16)
custom_hooks = [dict(type='WeightsSeenHook')]
randomness = dict(seed=0)
"""
NAME = 'neck.weight'


@HOOKS.register_module(force=True)
class WeightsSeenHook(Hook):
    """Notes a weight after each iteration, and in each evaluation."""

    trained: list
    evaluated: list
    rates: list

    def before_run(self, runner):
        WeightsSeenHook.trained, WeightsSeenHook.evaluated, WeightsSeenHook.rates = [self.weight(runner)], [], []

    def after_train_iter(self, runner, *args, **kwargs):
        self.trained.append(self.weight(runner))
        self.rates.extend(runner.optim_wrapper.get_lr()['lr'])

    def before_val_iter(self, runner, *args, **kwargs):
        self.evaluated.append(self.weight(runner))

    @staticmethod
    def weight(runner):
        return runner.model.state_dict()[NAME].clone()


@pytest.fixture
def train(train_tool, tmp_path, monkeypatch):
    """Train in a folder of its own; return the exit status."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tiny.py').write_text(CONFIG)
    return lambda *arguments, run='run': train_tool.main(['tiny.py', '--work-dir', run, *arguments])


def test_accumulated_gradients_are_those_of_the_larger_batch(train):
    assert train('--cfg-options', 'optim_wrapper.accumulative_counts=2', 'train_cfg.max_epochs=1', run='run1') == 0
    start, first, accumulated = WeightsSeenHook.trained
    assert torch.equal(first, start) and not torch.equal(accumulated, start), 'one step for two batches'
    assert train('--cfg-options', 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', run='run2') == 0
    torch.testing.assert_close(WeightsSeenHook.trained[-1], accumulated, rtol=0, atol=1e-7)


def test_ema_is_what_is_evaluated_and_saved(train, tmp_path):
    assert train('--ema', '0.25') == 0
    average = WeightsSeenHook.trained[1]
    for weight in WeightsSeenHook.trained[2:]:
        average = 0.75 * average + 0.25 * weight
    seen = WeightsSeenHook.evaluated[-1]
    torch.testing.assert_close(seen, average, rtol=0, atol=1e-6)
    assert (seen - WeightsSeenHook.trained[-1]).abs().max() > 1e-4
    saved = load_checkpoint_file(tmp_path / 'run/epoch_2.pth')
    assert torch.equal(saved['state_dict'][NAME], seen), 'so tools/test.py evaluates it too'
    assert torch.equal(saved['ema_state_dict'][f'module.{NAME}'], WeightsSeenHook.trained[-1])


def test_the_learning_rate_follows_the_batch(train):
    assert train('--auto-scale-lr', '--cfg-options', 'train_cfg.max_epochs=1') == 0
    assert WeightsSeenHook.rates == [pytest.approx(0.1 * 2 / 16)] * 2


def test_bfloat16(train, tmp_path):
    """The first step is that of float32 to the precision of bfloat16 (8 bits), and not exactly."""
    steps = []
    for run, flags in (('run1', ['--amp']), ('run2', [])):
        assert train(*flags, '--cfg-options', 'train_cfg.max_epochs=1', run=run) == 0
        steps.append(WeightsSeenHook.trained[1] - WeightsSeenHook.trained[0])
    off = (steps[0] - steps[1]).norm() / steps[1].norm()
    assert 0 < off < 2**-5, 'a few roundings of 2**-8 each'


def test_gradient_checkpointing_reaches_every_block(train_tool, nano_config, monkeypatch):
    args = train_tool.get_parser().parse_args([nano_config, '--cfg-options', 'model.backbone.with_cp=True'])
    backbone = MODELS.build(load_config(args).model.backbone).train()
    calls = []

    def count(function, *inputs, **settings):
        calls.append(function)
        return checkpoint(function, *inputs, **settings)

    monkeypatch.setattr('swin_pos_det.models.swin_blocks.checkpoint', count)
    sum(maps.sum() for maps in backbone(torch.randn(1, 3, 64, 64))).backward()
    assert len(calls) == 8, 'what that does to gradients and memory: test_parity, test_scaling'
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_float16_scales_the_loss(train, tmp_path):
    assert train('--amp') == 0
    saved = load_checkpoint_file(tmp_path / 'run/epoch_2.pth')
    assert saved['optimizer']['loss_scaler']['scale'] >= 1
    assert not torch.equal(WeightsSeenHook.trained[0], WeightsSeenHook.trained[-1])


def test_a_full_disk_is_told_in_one_line(train, tmp_path, monkeypatch, capsys):
    """The second checkpoint does not fit; the first stays, and a training can resume from it."""
    sync = os.fsync

    def fail_later(descriptor):
        if any(os.path.samestat(os.fstat(descriptor), draft.stat()) for draft in tmp_path.glob('run/.epoch_2.*')):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, 'fsync', fail_later)
    assert train('--cfg-options', 'train_cfg.val_interval=1') == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: cannot write') and 'run/epoch_2.pth (No space left on device)' in error
    assert load_checkpoint_file(tmp_path / 'run/epoch_1.pth')['meta']['epoch'] == 1
    monkeypatch.setattr(os, 'fsync', sync)
    assert train('--resume') == 0
    assert [path.name for path in (tmp_path / 'run').glob('*.pth')] == ['epoch_2.pth']


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_a_work_dir_that_cannot_be_written_is_told_in_one_line(train, tmp_path, monkeypatch, capsys, number):
    if number == errno.ENOTDIR:
        (tmp_path / 'run').touch()
    else:
        def refuse(path, *args, **kwargs):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(os, 'makedirs', refuse)
    assert train(run='run/inside') == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert 'run/inside' in errors[0] and os.strerror(number) in errors[0]


def test_an_evaluation_that_was_cut_off_is_made_up_for(train, tmp_path):
    assert train() == 0
    assert len(WeightsSeenHook.evaluated) == 2 * 2
    assert (tmp_path / 'run/last_evaluation').read_text() == '4'
    assert train('--resume') == 0
    assert WeightsSeenHook.evaluated == [], 'it was finished'
    (tmp_path / 'run/last_evaluation').write_text('2')
    assert train('--resume') == 0
    assert len(WeightsSeenHook.evaluated) == 2, 'of the last epoch, and no more training'
    assert len(WeightsSeenHook.trained) == 1
    assert train() == 0, 'a new training in the same folder'
    assert len(WeightsSeenHook.evaluated) == 2 * 2


def test_a_strategy_gets_its_runner_and_is_checked(train_tool, nano_config):
    cfg = load_config(train_tool.get_parser().parse_args([nano_config]))
    choose_runner(cfg)
    assert 'runner_type' not in cfg
    cfg.strategy = dict(type='ResumableFSDPStrategy')
    choose_runner(cfg)
    assert cfg.runner_type == 'FlexibleRunner'
    with pytest.raises(ValueError, match='needs a launcher'):
        check_strategy(cfg)
    cfg.launcher = 'pytorch'
    with pytest.raises(ValueError, match='clip_grad would clip each shard'):
        check_strategy(cfg)
    cfg.optim_wrapper.clip_grad = None
    check_strategy(cfg)
    cfg.resume = True
    check_strategy(cfg)
    in_parts = dict(type='ResumableFSDPStrategy', model_wrapper=dict(auto_wrap_policy='wrap_swin_blocks'))
    for change, message in [
            (dict(strategy=dict(type='FSDPStrategy')), 'use ResumableFSDPStrategy'),
            (dict(strategy=in_parts), 'cannot load a checkpoint'),
            (dict(strategy=in_parts, resume=False, load_from='start.pth'), 'cannot load a checkpoint'),
            (dict(custom_hooks=[dict(type='EMAHook')]), 'EMAHook averages whole models'),
            (dict(optim_wrapper=dict(accumulative_counts=2)), 'not sharded'),
            (dict(optim_wrapper=dict(constructor='SwinLayerDecayOptimWrapperConstructor')), 'FSDP flattens')]:
        with pytest.raises(ValueError, match=message):
            check_strategy(type(cfg)({**cfg.to_dict(), **change}))
    check_strategy(type(cfg)({**cfg.to_dict(), 'strategy': in_parts, 'resume': False}))


def test_deepspeeds_settings_are_checked(monkeypatch):
    """The config of this project passes: its settings are those that ZeRO and DeepSpeed's optimizer wrapper take."""
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_deepspeed-1x_coco.py')
    cfg.launcher = 'pytorch'
    choose_runner(cfg)
    assert cfg.runner_type == 'FlexibleRunner'
    monkeypatch.setattr(strategies, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='pip install deepspeed'):
        check_strategy(cfg)
    monkeypatch.setattr(strategies, 'find_spec', lambda name: name)
    check_strategy(cfg)
    plain = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py')
    assert {key: cfg.optim_wrapper[key] for key in ('optimizer', 'paramwise_cfg')} == {
        key: plain.optim_wrapper[key] for key in ('optimizer', 'paramwise_cfg')}
    assert cfg.strategy == dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=2)), (
        'no optimizer, schedule or gradient clipping of its own beside those of the config')
    wrapper = cfg.optim_wrapper.to_dict()
    for change, message in [
            (dict(optim_wrapper=dict(wrapper, type='AmpOptimWrapper', loss_scale='dynamic')), 'strategy.bf16 or fp16'),
            (dict(optim_wrapper=dict(wrapper, clip_grad=dict(max_norm=1.))), 'has clip_grad, .*gradient_clipping'),
            (dict(auto_scale_lr=dict(enable=True, base_batch_size=16)), 'ignores auto_scale_lr')]:
        with pytest.raises(ValueError, match=message):
            check_strategy(type(cfg)({**cfg.to_dict(), **change}))


def test_deepspeeds_parts_are_joined_before_an_evaluation(test_tool, nano_config, tmp_path, capsys):
    folder = tmp_path / 'epoch_1.pth'
    folder.mkdir()
    (folder / 'mp_rank_00_model_states.pt').touch()
    assert test_tool.main([nano_config, str(folder)]) == 1
    assert f'zero_to_fp32.py {tmp_path} OUT --tag epoch_1.pth' in capsys.readouterr().err
