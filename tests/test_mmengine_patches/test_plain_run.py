"""A detector without any part of this package trains, resumes and tests alike with the patches and without."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.registry import METRICS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from swin_pos_det import mmengine_patches
from swin_pos_det.engine import CheckpointHook

MODEL = dict(
    type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8, frozen_stages=1, style='pytorch'),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='RetinaHead', num_classes=1, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_bbox=dict(type='L1Loss')),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.4, min_pos_iou=0),
                   allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=.5), max_per_img=5))


class Boxes(Dataset):
    metainfo = dict(classes=('thing', ))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        sample = DetDataSample(metainfo=dict(img_id=index, img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1, 1)))
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[4., 4., 40., 40.]]) + index,
                                           labels=torch.zeros(1, dtype=torch.long))
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
        return dict(inputs=(image * 255).byte(), data_samples=sample)


@METRICS.register_module(force=True)
class MeanScore(BaseMetric):
    """The mean score of all detections."""

    default_prefix = 'mean'

    def process(self, data_batch, data_samples):
        self.results += [sample['pred_instances']['scores'].mean().item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(acc=sum(results) / len(results))


def runner(folder, epochs, **settings):
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=Boxes(),
                  collate_fn=dict(type='pseudo_collate'))
    testing = dict(loader, sampler=dict(type='DefaultSampler', shuffle=False))
    return Runner(
        ConfigDict(MODEL), work_dir=str(folder), train_dataloader=loader, val_dataloader=testing,
        test_dataloader=testing, val_cfg=dict(), test_cfg=dict(), val_evaluator=dict(type='MeanScore'),
        test_evaluator=dict(type='MeanScore'), train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)), default_scope='mmdet', randomness=dict(seed=0),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=4, by_epoch=True), log_level='WARNING',
        custom_hooks=[dict(type='EMAHook')],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', max_keep_ckpts=1, save_best='mean/acc',
                                           interval=1, rule='greater')),
        experiment_name=f'{folder}{epochs}{len(settings)}', **settings)


def train_resume_test(folder):
    """Train two epochs, resume for a third, and test the last checkpoint; return all results."""
    runner(folder, 2).train()
    resumed = runner(folder, 3, resume=True)
    resumed.train()
    files = sorted(path.name for path in folder.glob('*.pth'))
    tested = runner(folder, 3, load_from=str(folder / 'epoch_3.pth'))
    metrics = tested.test()
    saved = torch.load(folder / 'epoch_3.pth', weights_only=False)
    hooks = [type(hook) for hook in resumed.hooks]
    return metrics, files, saved, hooks


@pytest.fixture
def without_patches(monkeypatch):
    """Leave MMEngine as it is; on torch >= 2.6 it needs this variable to read its own checkpoints."""
    mmengine_patches.revert()
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    yield
    monkeypatch.undo()
    mmengine_patches.apply()


@pytest.fixture
def plain(without_patches, tmp_path):
    return train_resume_test(tmp_path / 'plain')


def test_a_run_is_the_same(plain, tmp_path):
    mmengine_patches.apply()
    metrics, files, saved, hooks = train_resume_test(tmp_path / 'patched')
    want_metrics, want_files, want, want_hooks = plain
    assert metrics == want_metrics and 0 < metrics['mean/acc'] < 1
    assert files == want_files and len(files) == 2
    assert saved.keys() == want.keys()
    for part in ('state_dict', 'ema_state_dict'):
        assert saved[part].keys() == want[part].keys()
        for name, weight in saved[part].items():
            assert torch.equal(weight, want[part][name]), name
    assert saved['param_schedulers'] == want['param_schedulers']
    for index, state in saved['optimizer']['state'].items():
        assert all(torch.equal(value, want['optimizer']['state'][index][name]) for name, value in state.items())
    ours, theirs = saved['message_hub']['runtime_info'], want['message_hub']['runtime_info']
    assert ours.keys() == theirs.keys() and ours['best_score'] == theirs['best_score']
    assert Path(ours['best_ckpt']).name == Path(theirs['best_ckpt']).name == files[0]
    assert [CheckpointHook if hook is MMEngineCheckpointHook else hook for hook in want_hooks] == hooks
    assert CheckpointHook not in want_hooks


def test_a_run_says_once_that_mmengine_is_changed(tmp_path, monkeypatch):
    made = runner(tmp_path, 1)
    lines = []
    monkeypatch.setattr(made.logger, 'info', lines.append)
    made.train()
    assert [line for line in lines if 'SWIN_POS_DET_PATCHES=0' in line] == [mmengine_patches.table.summary()]
