"""A detector whose numbers are NaN is not taken for one that finds nothing."""
from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import nn

from swin_pos_det.apis.inference import check_finite
from swin_pos_det.engine.nothing_found import NothingFoundHook, nonfinite_part
from swin_pos_det.evaluation.detections import DetectionsError


class Detector(nn.Module):
    """Finds a box where its neck gives a number above 0.5."""

    def __init__(self, weight):
        super().__init__()
        self.backbone = nn.Linear(1, 1, bias=False)
        self.neck = nn.Sequential(nn.ReLU(), nn.Linear(1, 1, bias=False))
        nn.init.constant_(self.backbone.weight, weight)
        nn.init.constant_(self.neck[1].weight, 1.)

    def test_step(self, batch):
        scores = self.neck(self.backbone(torch.ones(1, 1)))[0]
        return [SimpleNamespace(pred_instances=InstanceData(scores=scores[scores > 0.5]))]


def evaluate(weight, **settings):
    hook, runner = NothingFoundHook(**settings), SimpleNamespace(model=Detector(weight))
    hook.before_val_epoch(runner)
    for index in range(2):
        hook.after_val_iter(runner, index, {}, runner.model.test_step({}))
    hook.after_val_epoch(runner, {})


@pytest.mark.parametrize('weight', [1., 0.1])
def test_finite_numbers_pass(weight):
    evaluate(weight)
    assert nonfinite_part(Detector(weight), {}) is None


def test_the_part_is_named(caplog, monkeypatch):
    with pytest.raises(DetectionsError, match='finds nothing as backbone gives NaN'):
        evaluate(float('nan'))
    model = Detector(1.)
    nn.init.constant_(model.neck[1].weight, float('nan'))
    assert nonfinite_part(model, {}) == 'neck.1'
    assert not any(module._forward_hooks for module in model.modules())
    pipeline = SimpleNamespace(prepare=lambda image, index: dict(inputs=torch.ones(1)))
    with pytest.raises(DetectionsError, match='finds nothing as neck.1 gives NaN'):
        check_finite(model, np.zeros((2, 2, 3), np.uint8), pipeline)
    MMLogger.get_current_instance().addHandler(caplog.handler)
    monkeypatch.setattr('logging.raiseExceptions', False)
    evaluate(float('nan'), allow_nonfinite=True)
    assert 'gives NaN' in caplog.records[-1].getMessage() and caplog.records[-1].levelno == logging.WARNING
