"""Configs in MMEngine's pure-Python style, and configs without a default scope, in the tools."""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch
from mmdet.models.detectors import RetinaNet
from mmdet.registry import MODELS
from mmengine.model import PretrainedInit
from mmengine.registry import DefaultScope

from swin_pos_det.analysis.benchmark.detector import load_model_config
from swin_pos_det.cli.main import run_cli
from swin_pos_det.cli.runner import load_config
from swin_pos_det.data import make_digits_on_photos
from swin_pos_det.type_names import resolve_type

from ..models import micro
from .conftest import load_tool

BASE = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.detectors import RetinaNet
from mmdet.models.losses import FocalLoss, L1Loss
from mmdet.models.necks import FPN
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW

from swin_pos_det.data import DigitsOnPhotosDataset
from swin_pos_det.evaluation import DigitsOnPhotosMetric
from swin_pos_det.models import SwinPosTransformer

model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(
        type=SwinPosTransformer, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), drop_path_rate=0.),
    neck=dict(type=FPN, in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type=RetinaHead, num_classes=10, in_channels=8, stacked_convs=1, feat_channels=8,
        anchor_generator=dict(type=AnchorGenerator, octave_base_scale=4, scales_per_octave=1, ratios=[1.],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder), loss_cls=dict(type=FocalLoss), loss_bbox=dict(type=L1Loss)),
    train_cfg=dict(assigner=dict(type=MaxIoUAssigner, pos_iou_thr=.5, neg_iou_thr=.4, min_pos_iou=0.),
                   sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0., nms=dict(type='nms', iou_threshold=.5), max_per_img=20))
load = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True)]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=DigitsOnPhotosDataset, data_root='digits', ann_file='annotations/train.json',
                 data_prefix=dict(img='train/'),
                 pipeline=[*load, dict(type=Resize, scale=(64, 64)), dict(type=PackDetInputs)]))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=DigitsOnPhotosDataset, data_root='digits', ann_file='annotations/val.json', test_mode=True,
                 data_prefix=dict(img='val/'), pipeline=[
        dict(type=LoadImageFromFile), dict(type=Resize, scale=(64, 64)), dict(type=LoadAnnotations, with_bbox=True),
        dict(type=PackDetInputs, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type=DigitsOnPhotosMetric, metric='bbox')
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1, val_interval=1)
val_cfg, test_cfg = dict(type=ValLoop), dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
default_hooks = dict(logger=dict(type=LoggerHook, interval=1), checkpoint=dict(type=CheckpointHook, interval=1),
                     visualization=dict(type=DetVisualizationHook))
visualizer = dict(type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)])
"""
CONFIG = """
from mmengine.config import read_base

with read_base():
    from .base import *

default_scope = None
custom_imports = dict(imports=['swin_pos_det'])
model.update(dict(backbone=dict(window_size=4)))
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Make a folder with a config in plain Python, its data and a checkpoint that ``tools/train.py`` has made."""
    folder = tmp_path_factory.mktemp('styles')
    (folder / 'base.py').write_text(BASE)
    (folder / 'plain.py').write_text(CONFIG)
    make_digits_on_photos(folder / 'digits', num_train=4, num_val=3, seed=0, progress=False)
    with _inside(folder):
        assert load_tool('train.py').main(['plain.py', '--work-dir', 'run']) == 0
    assert (folder / 'run/epoch_1.pth').is_file()
    return folder


class _inside:
    """Run from a folder, without a scope from elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.before = os.getcwd()
        os.chdir(self.folder)
        DefaultScope._instance_dict.clear()

    def __exit__(self, *_: object) -> None:
        os.chdir(self.before)
        DefaultScope._instance_dict.clear()


@pytest.mark.parametrize(('tool', 'function', 'arguments', 'written'), [
    ('train.py', None, 'plain.py --work-dir resumed --resume run/epoch_1.pth --ema --cfg-options '
                       'train_cfg.max_epochs=2', 'resumed/epoch_2.pth'),
    ('test.py', None, 'plain.py run/epoch_1.pth --work-dir tested --tta', 'tested/*/*.json'),
    ('test.py', None, 'plain.py run/epoch_1.pth --work-dir shown --show-dir pictures --out found.pkl',
     'shown/*/pictures/000000.jpg'),
    ('infer.py', None, 'plain.py run/epoch_1.pth digits/val --out inferred', 'inferred/vis/000000.jpg'),
    ('analysis_tools/sweep_windows.py', 'run', 'plain.py run/epoch_1.pth --windows 2 --scales 1 --work-dir swept',
     'swept/sweep.png'),
    ('analysis_tools/report_run.py', None, 'run --num-images 1', 'run/predictions/*.png'),
    ('analysis_tools/plot_position.py', None, 'plain.py run/epoch_1.pth --work-dir drawn --num-images 1',
     'drawn/attention.png'),
    ('analysis_tools/benchmark_loader.py', None, 'plain.py --images 2', None),
    ('model_converters/inspect_checkpoint.py', 'run', 'run/epoch_1.pth --config plain.py', None),
])
def test_a_config_in_plain_python_runs(trained, tool, function, arguments, written):
    module = load_tool(tool)
    with _inside(trained):
        status = (module.main(arguments.split()) if function is None else
                  run_cli(getattr(module, function), module.get_parser(), arguments.split()))
    assert status == 0
    assert written is None or list(trained.glob(written))


def test_the_detector_benchmark_takes_a_config_in_plain_python(trained):
    with _inside(trained):
        for backbone, name in (('ours', 'SwinPosTransformer'), ('mmdet', 'SwinTransformer')):
            assert type(MODELS.build(load_model_config('plain.py', backbone).model.backbone)).__name__ == name


@pytest.mark.parametrize('scope', ['', 'default_scope = None', "default_scope = 'mmdet'"])
def test_a_config_without_a_scope_gets_mmdets(tmp_path, scope):
    (tmp_path / 'config.py').write_text(f"model = dict(type='RetinaNet')\n{scope}\n")
    args = argparse.Namespace(config=str(tmp_path / 'config.py'), launcher='none', local_rank=0, cfg_options=None,
                              work_dir=str(tmp_path))
    with _inside(tmp_path):
        assert load_config(args).default_scope == 'mmdet'
        assert resolve_type(MODELS, dict(type='RetinaNet')) is RetinaNet


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit], ids=str)
def test_weights_named_by_a_class_are_loaded_by_our_loader(tmp_path, kind):
    weights = dict(micro().state_dict())
    torch.save(weights, tmp_path / 'weights.pth')
    model = micro(init_cfg=dict(type=kind, checkpoint=str(tmp_path / 'weights.pth')))
    model.init_weights()
    assert model.load_report is not None
    assert all(torch.equal(model.state_dict()[key], weights[key]) for key in weights)
