"""Hooks that change a built loader and built heads: what they change, and that they undo it."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from torch import nn

from swin_pos_det.engine import PinnedTransferHook, VectorizedAssignersHook, loader_transfer
from swin_pos_det.models import VectorizedMaxIoUAssigner


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
    assert vars(model[0].assigner) == vars(single) and model[1].bbox_assigner[1].pos_iou_thr == 0.5
    assert model[1].assigner is special, 'a subclass may assign otherwise'
    hook.after_train(runner)
    assert model[0].assigner is single and model[1].bbox_assigner == stages
