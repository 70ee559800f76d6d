"""Every config builds, and differs from mmdet's in what it says and nothing else."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

FOLDER = Path(__file__).parents[2] / 'configs' / 'swin_pos'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
SMALL = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth'
PLUGIN = {
    'custom_imports.imports': ['swin_pos_det'],
    'custom_imports.allow_failed_imports': False,
    'model.backbone.type': 'SwinPosTransformer',
}
# name -> (mmdet's config, what is different)
DIFFERENCES = {
    'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', PLUGIN),
    'mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py': ('swin-t-p4-w7_fpn_amp-ms-crop-3x_coco', PLUGIN),
    'mask-rcnn_swin-pos-s-p4-w7_fpn_amp-ms-crop-3x_coco.py': ('swin-s-p4-w7_fpn_amp-ms-crop-3x_coco', PLUGIN),
    'mask-rcnn_swin-pos-s-p4-w7_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', {
        **PLUGIN, 'model.backbone.depths': [2, 2, 18, 2],
        'model.backbone.init_cfg.checkpoint': SMALL,
        'pretrained': SMALL
    }),
    'mask-rcnn_swin-pos-t-p4-w12_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', {
        **PLUGIN, 'model.backbone.window_size': 12,
        'model.backbone.table_window_size': 7
    }),
    'mask-rcnn_swin-pos-t-p4-w7-fit_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', {
        **PLUGIN, 'model.backbone.window_policy': 'fit'
    }),
    'mask-rcnn_swin-pos-t-p4-w7-mask_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', {
        **PLUGIN, 'model.backbone.padding': 'mask',
        'model.data_preprocessor.type': 'SwinPosDataPreprocessor'
    }),
    'mask-rcnn_swin-pos-t-p4-w7-elastic_fpn_1x_coco.py': ('swin-t-p4-w7_fpn_1x_coco', {
        **PLUGIN, 'custom_hooks': [
            dict(type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14], nominal_share=0.4)
        ]
    }),
}


def flatten(value: Any, name: str = '') -> Dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists stay whole."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, item in value.items() for k, v in flatten(item, f'{name}.{key}'.strip('.')).items()}


@pytest.mark.parametrize('name', DIFFERENCES)
def test_differs_from_mmdets_in_what_it_says(name):
    base, want = DIFFERENCES[name]
    ours = flatten(Config.fromfile(FOLDER / name).to_dict())
    theirs = flatten(Config.fromstring(f"_base_ = 'mmdet::swin/mask-rcnn_{base}.py'", '.py').to_dict())
    assert set(theirs) <= set(ours), 'nothing is dropped'
    assert {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value} == want


@pytest.mark.parametrize('name', CONFIGS)
def test_builds(name):
    cfg = Config.fromfile(FOLDER / name)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'SwinPosTransformer' + 'V2' * ('swinv2' in name)
    assert [conv.conv.in_channels for conv in model.neck.lateral_convs] == model.backbone.num_features


# name -> what is different from the demo
VARIANTS = {
    'elastic_fpn': {'custom_hooks': [dict(type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14],
                                          nominal_share=0.4)]},
    'mask_fpn': {'model.backbone.padding': 'mask', 'model.data_preprocessor.type': 'SwinPosDataPreprocessor'},
}


@pytest.mark.parametrize('name', VARIANTS)
def test_variants_differ_from_the_demo_in_what_they_say(name):
    demo = flatten(Config.fromfile(FOLDER / 'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py').to_dict())
    ours = flatten(Config.fromfile(FOLDER / f'mask-rcnn_swin-pos-nano-p4-w7-{name}_digits.py').to_dict())
    assert {key: value for key, value in ours.items() if demo.get(key) != value} == VARIANTS[name]


def test_random_resolutions_change_the_resize_alone():
    demo = Config.fromfile(FOLDER / 'mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py')
    ours = Config.fromfile(FOLDER / 'mask-rcnn_swin-pos-nano-p4-w7_fpn_ms_digits.py')
    theirs, changed = demo.train_dataloader.dataset.pipeline, ours.train_dataloader.dataset.pipeline
    differ = [i for i, (one, other) in enumerate(zip(theirs, changed)) if one != other]
    assert len(theirs) == len(changed) and differ == [2] and changed[2].type == 'RandomChoiceResize'
    sides = [scale[0] for scale in changed[2].scales]
    assert min(sides) == 128 and max(sides) == 512 and 256 in sides, 'half, twice and once the 256 of the demo'
    ours.train_dataloader.dataset.pipeline[2] = theirs[2]
    assert ours.to_dict() == {**demo.to_dict(), 'train_dataloader': ours.train_dataloader.to_dict()}


@pytest.mark.parametrize('name', CONFIGS)
def test_is_a_short_difference(name):
    lines = [line for line in (FOLDER / name).read_text().splitlines() if line.strip() and not line.startswith('#')]
    assert len(lines) <= 10 or 'nano' in name, 'a config is the difference from its base'
