"""The COCO ablation's configs differ from their base in the position scheme, and build."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from .test_configs import FOLDER as SWIN_POS
from .test_configs import flatten

FOLDER = Path(__file__).parents[2] / 'configs' / 'position'
NAME = 'mask-rcnn_swin-pos-t-p4-{}_fpn_amp-ms-crop-3x_coco.py'
CONFIGS = {
    'w7-none': 'none', 'w7-absolute': 'absolute', 'w7-absolute-relative': 'absolute+relative',
    'w7-relative-only': 'relative_only', 'w7-relative': 'relative', 'w7-rope-axial': 'rope_axial',
    'w7-rope-mixed': 'rope_mixed', 'w7-peg': 'peg', 'w8-relative': 'relative', 'w8-linear-cpb': 'linear_cpb',
    'w8-log-cpb': 'log_cpb',
}


def test_every_config_is_listed():
    assert sorted(path.name for path in FOLDER.glob('*.py')) == sorted(NAME.format(name) for name in CONFIGS)
    readme = (FOLDER / 'README.md').read_text()
    assert all(f'`{name.split("-", 1)[1]}`' in readme for name in CONFIGS)


@pytest.fixture(scope='module')
def base():
    return flatten(Config.fromfile(SWIN_POS / NAME.format('w7')).to_dict())


@pytest.mark.parametrize('name', CONFIGS)
def test_only_position_differs(name, base):
    cfg = Config.fromfile(FOLDER / NAME.format(name))
    ours = flatten(cfg.to_dict())
    position = CONFIGS[name]
    want = {'model.backbone.init_cfg': None, 'model.backbone.position': position}
    if name.startswith('w8'):
        want['model.backbone.window_size'] = 8
    decay = {'rope_mixed': 'rope_freqs', 'linear_cpb': 'cpb_mlp', 'log_cpb': 'cpb_mlp'}.get(position)
    if decay:
        want[f'optim_wrapper.paramwise_cfg.custom_keys.{decay}.decay_mult'] = 0.
    assert {key: value for key, value in ours.items() if base.get(key, key) != value} == want
    gone = [key for key in base if key not in ours]
    assert all(key.startswith('model.backbone.init_cfg.') for key in gone)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    assert backbone.position.name == position
    assert not decay or any(decay in key for key, _ in backbone.named_parameters())
