"""The configs of Swin V2: what they build, and that they are differences from Swin-T's."""
from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from swin_pos_det.layers import without_weight_decay
from swin_pos_det.models import SwinPosTransformerV2
from tests.models import VARIANTS

from .test_configs import FOLDER, flatten

# The window of each variant's config -> the windows that its weights were trained with, stage by stage.
LEARNED = {8: [8, 8, 8, 8], 16: [16, 16, 16, 8], 32: [16, 16, 16, 8]}
LARGE = [12, 12, 12, 6]


@pytest.mark.parametrize('window', LEARNED)
@pytest.mark.parametrize('variant', VARIANTS)
def test_builds_the_variant(variant, window):
    cfg = Config.fromfile(FOLDER / f'mask-rcnn_swinv2-pos-{variant.lower()}-p4-w{window}_fpn_1x_coco.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert type(backbone) is SwinPosTransformerV2
    assert backbone.num_features[0] == VARIANTS[variant]['embed_dims']
    assert tuple(len(stage.blocks) for stage in backbone.stages) == VARIANTS[variant]['depths']
    attention = [stage.blocks[0].attn.w_msa for stage in backbone.stages]
    assert tuple(module.num_heads for module in attention) == VARIANTS[variant]['num_heads']
    assert backbone.window_size == [(window, window)] * 4
    learned = LARGE if variant == 'L' else LEARNED[window]
    assert [module.table_window_size for module in attention] == [(side, side) for side in learned]
    assert f'window{learned[0]}_' in cfg.model.backbone.init_cfg.checkpoint
    assert [conv.conv.in_channels for conv in model.neck.lateral_convs] == backbone.num_features


def test_what_has_no_weight_decay():
    cfg = Config.fromfile(FOLDER / 'mask-rcnn_swinv2-pos-t-p4-w8_fpn_1x_coco.py')
    free = {name for name, group in cfg.optim_wrapper.paramwise_cfg.custom_keys.items() if group.decay_mult == 0}
    with torch.device('meta'):
        backbone = SwinPosTransformerV2()
    own = {part for name, _ in backbone.named_parameters() for part in name.split('.')}
    assert own & set(without_weight_decay()) == {'cpb_mlp', 'logit_scale'} <= free


@pytest.mark.parametrize(('size', 'rate'), [('t', .2), ('s', .2), ('b', .3), ('l', .3)])
def test_stochastic_depth_is_that_of_swin(size, rate):
    names = sorted(path.name for path in FOLDER.glob(f'mask-rcnn_swinv2-pos-{size}-*_1x_coco.py'))
    assert len(names) == 3
    for name in [*names, f'mask-rcnn_swin-pos-{size}-p4-w7_fpn_1x_coco.py'][:4 if size != 'l' else 3]:
        assert Config.fromfile(FOLDER / name).model.backbone.drop_path_rate == rate


def test_the_smallest_differs_from_swin_t_in_what_it_says():
    ours, theirs = (flatten(Config.fromfile(FOLDER / f'mask-rcnn_{name}_fpn_1x_coco.py').to_dict())
                    for name in ('swinv2-pos-t-p4-w8', 'swin-pos-t-p4-w7'))
    changed = {key for key, value in ours.items() if theirs.get(key) != value}
    keys = 'optim_wrapper.paramwise_cfg.custom_keys'
    assert set(theirs) <= set(ours) and changed - {'free.decay_mult'} == {
        'model.backbone.type', 'model.backbone.window_size', 'model.backbone.init_cfg.checkpoint', 'pretrained',
        f'{keys}.cpb_mlp.decay_mult', f'{keys}.logit_scale.decay_mult'}
