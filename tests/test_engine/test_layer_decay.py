"""Learning rates that fall towards the image."""
from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from swin_pos_det.engine.layer_decay import layer_of
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO

NAMES = {
    'backbone.patch_embed.projection.weight': (0, 0),
    'backbone.absolute_pos_embed': (0, 0),
    'backbone.stages.0.blocks.0.norm1.weight': (1, 1),
    'backbone.stages.0.blocks.1.attn.w_msa.qkv.bias': (2, 1),
    'backbone.stages.0.downsample.reduction.weight': (2, 1),
    'backbone.norm0.weight': (2, 1),
    'backbone.stages.2.blocks.3.ffn.layers.1.weight': (8, 3),
    'backbone.stages.3.blocks.1.norm2.bias': (12, 4),
    'backbone.norm3.bias': (12, 4),
    'neck.lateral_convs.0.conv.weight': (13, 5),
    'roi_head.bbox_head.fc_cls.weight': (13, 5),
}


@pytest.mark.parametrize('name', NAMES)
def test_layers_of_swin_t(name):
    depths = (2, 2, 6, 2)
    assert (layer_of(name, depths), layer_of(name, depths, 'stage_wise')) == NAMES[name]


def detector(backbone=SwinPosTransformer, **settings):
    model = nn.Module()
    model.backbone, model.neck = backbone(**MICRO, **settings), nn.Linear(4, 4)
    return model


def build(model, **paramwise):
    cfg = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
               constructor='SwinLayerDecayOptimWrapperConstructor', paramwise_cfg=paramwise)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return build_optim_wrapper(model, cfg).optimizer


@pytest.mark.parametrize('backbone', [SwinPosTransformer, SwinTransformer])
def test_every_parameter_has_its_rate_once(backbone):
    model = detector(backbone, use_abs_pos_embed=True, pretrain_img_size=32)
    optimizer = build(model, decay_rate=0.5)
    rates = {id(p): group for group in optimizer.param_groups for p in group['params']}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(rates) == len(trained) == sum(len(group['params']) for group in optimizer.param_groups)
    for name, parameter in trained.items():
        group = rates[id(parameter)]
        assert group['lr'] == pytest.approx(1e-3 * 0.5**(7 - layer_of(name, (2, 2, 2)))), name
        free = parameter.dim() == 1 or 'table' in name or 'absolute' in name
        assert group['weight_decay'] == (0. if free else 0.05), name
    assert rates[id(model.neck.weight)]['lr'] == 1e-3


def test_frozen_stages_are_left_out_and_it_trains():
    model = detector(frozen_stages=1)
    optimizer = build(model, decay_rate=0.9, decay_type='stage_wise')
    names = [name for group in optimizer.param_groups for name in group['param_names']]
    assert not any(name.startswith(('backbone.patch_embed', 'backbone.stages.0')) for name in names)
    before = model.backbone.stages[1].blocks[0].norm1.weight.detach().clone()
    sum(out.square().mean() for out in model.backbone(torch.randn(1, 3, 32, 32))).backward()
    optimizer.step()
    assert not torch.equal(model.backbone.stages[1].blocks[0].norm1.weight, before)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(), 'decay_rate must be above 0 and at most 1, such as 0.8, got None'),
    (dict(decay_rate=1.5), 'got 1.5'),
    (dict(decay_rate=0.8, decay_type='block'), "decay_type must be one of .*, got 'block'"),
    (dict(decay_rate=0.8, num_layers=12), r"takes decay_rate and decay_type, got \['num_layers'\]"),
])
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build(detector(), **settings)


def test_another_backbone_is_named():
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='needs a Swin as the backbone, got Linear'):
        build(model, decay_rate=0.8)
