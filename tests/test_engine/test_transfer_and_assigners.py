"""Hooks that change a built loader and built heads: what they change, and that they undo it."""
from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.assigners import BboxOverlaps2D, MaxIoUAssigner
from torch import nn

from swin_pos_det.engine import PinnedTransferHook, VectorizedAssignersHook, VectorizedHeadsHook, loader_transfer
from swin_pos_det.models import (
    VectorizedBboxOverlaps2D,
    VectorizedMaxIoUAssigner,
    VectorizedRPNHead,
    VectorizedSingleRoIExtractor,
)


class Loop:
    """As mmengine's ``IterBasedTrainLoop``: its iterator is there before the training starts."""

    class Iterator:
        made = 0

        def __init__(self, loader) -> None:
            torch.rand(3)  # a loader draws a seed
            type(self).made += 1
            self.pinned = loader.pin_memory

    def __init__(self, workers: int) -> None:
        self.dataloader = SimpleNamespace(pin_memory=False, num_workers=workers, _iterator=object())
        self.dataloader_iterator = self.Iterator(self.dataloader)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('accelerator', [False, True])
def test_batches_are_pinned_where_there_is_a_gpu(monkeypatch, workers, accelerator):
    monkeypatch.setattr(loader_transfer, 'has_accelerator', lambda: accelerator)
    loop, preprocessor = Loop(workers), SimpleNamespace(_non_blocking=False)
    model = nn.Module()
    model.data_preprocessor = preprocessor
    torch.manual_seed(0)
    PinnedTransferHook().before_train(SimpleNamespace(train_loop=loop, model=model))
    assert loop.dataloader.pin_memory is preprocessor._non_blocking is accelerator
    assert loop.dataloader_iterator.pinned is (accelerator and workers > 0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert drawn == torch.rand(1), 'random numbers go on as they were'


class Special(MaxIoUAssigner):
    pass


def test_assigners_are_replaced_while_the_training_lasts():
    settings = dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.2)
    model = nn.Sequential(nn.Module(), nn.Module())
    single, stages, special = (MaxIoUAssigner(**settings), [MaxIoUAssigner(**settings), MaxIoUAssigner(0.5, 0.5)],
                               Special(**settings))
    model[0].assigner, model[1].bbox_assigner, model[1].assigner = single, list(stages), special
    hook, runner = VectorizedAssignersHook(), SimpleNamespace(model=model)
    hook.before_train(runner)
    assert type(model[0].assigner) is VectorizedMaxIoUAssigner
    assert {type(each) for each in model[1].bbox_assigner} == {VectorizedMaxIoUAssigner}
    assert type(model[0].assigner.iou_calculator) is VectorizedBboxOverlaps2D
    assert type(single.iou_calculator) is BboxOverlaps2D
    settings = dict(vars(model[0].assigner), iou_calculator=single.iou_calculator)
    assert settings == vars(single) and model[1].bbox_assigner[1].pos_iou_thr == 0.5
    assert model[1].assigner is special, 'a subclass may assign otherwise'
    hook.after_train(runner)
    assert model[0].assigner is single and model[1].bbox_assigner == stages


def test_heads_are_replaced_while_the_training_lasts():
    def head(kind: type, **settings) -> RPNHead:
        return kind(in_channels=4, feat_channels=4, train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3), allowed_border=-1, pos_weight=-1,
            sampler=dict(type='RandomSampler', num=8, pos_fraction=0.5)), **settings)

    class SpecialHead(RPNHead):
        pass

    model = nn.ModuleList([head(RPNHead), head(SpecialHead), head(RPNHead, reg_decoded_bbox=True),
                           SingleRoIExtractor(dict(type='RoIAlign', output_size=7), 4, [4, 8]),
                           Shared2FCBBoxHead(in_channels=2, fc_out_channels=2, roi_feat_size=1)])
    kinds, names = [type(each) for each in model], list(model.state_dict())
    hook, runner = VectorizedHeadsHook(), SimpleNamespace(model=model)
    hook.before_train(runner)
    assert [type(each) for each in model] == [VectorizedRPNHead, SpecialHead, RPNHead,
                                            VectorizedSingleRoIExtractor, Shared2FCBBoxHead]
    assert list(model.state_dict()) == names
    hook.before_train(runner)  # the training before stopped by an exception
    copied = copy.deepcopy(model)
    assert type(copied[0]) is VectorizedRPNHead
    assert vars(copied[4])['get_targets'].args == (copied[4], ), 'not the head it is a copy of'
    assert type(pickle.loads(pickle.dumps(model[3]))) is VectorizedSingleRoIExtractor
    hook.after_train(runner)
    assert [type(each) for each in model] == kinds and 'get_targets' not in vars(model[4])
    assert not hasattr(model[0], '_kept_anchors')
