"""Every config builds, and differs from mmdet's in what it says and nothing else."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from mmcv.cnn import is_norm
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from swin_pos_det.engine.layer_decay import layer_of

FOLDER = Path(__file__).parents[2] / 'configs' / 'swin_pos'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
RELEASE = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0'
SMALL = f'{RELEASE}/swin_small_patch4_window7_224.pth'
FAST = Config.fromfile(FOLDER.parent / '_base_/fast_training.py').custom_hooks
PLUGIN = {
    'custom_hooks': FAST,
    'default_hooks.checkpoint.save_best': 'auto',
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
    'mask2former_swin-pos-t-p4-w7-224_8xb2-lsj-50e_coco.py': ('swin-t-p4-w7-224_8xb2-lsj-50e_coco', PLUGIN),
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
        **PLUGIN, 'custom_hooks': [*FAST, dict(
            type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14], nominal_share=0.4)]
    }),
}


def flatten(value: Any, name: str = '') -> Dict[str, Any]:
    """Flatten {'a': {'b': 1}} to {'a.b': 1}; lists stay whole."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, item in value.items() for k, v in flatten(item, f'{name}.{key}'.strip('.')).items()}


@pytest.mark.parametrize('name', DIFFERENCES)
def test_differs_from_mmdets_in_what_it_says(name):
    base, want = DIFFERENCES[name]
    ours = flatten(Config.fromfile(FOLDER / name).to_dict())
    base = f'swin/mask-rcnn_{base}' if name.startswith('mask-rcnn') else f'mask2former/mask2former_{base}'
    theirs = flatten(Config.fromstring(f"_base_ = 'mmdet::{base}.py'", '.py').to_dict())
    assert set(theirs) <= set(ours), 'nothing is dropped'
    assert {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value} == want


@pytest.fixture(scope='module')
def built():
    """Name -> (config, model of full size on the meta device, which takes neither time nor memory)."""
    models = {}

    def build(name):
        if name not in models:
            cfg = Config.fromfile(FOLDER / name)
            with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
                models[name] = cfg, MODELS.build(cfg.model)
        return models[name]

    return build


@pytest.mark.parametrize('name', CONFIGS)
def test_builds(name, built):
    cfg, model = built(name)
    backbone = model.backbone
    assert type(backbone).__name__ == 'SwinPosTransformer' + 'V2' * ('swinv2' in name)
    wanted = [backbone.num_features[stage] for stage in backbone.out_indices]
    assert list(cfg.model.get('neck', cfg.model.get('panoptic_head')).in_channels) == wanted
    assert '_coco' not in name or 'data/coco/' in str(cfg.val_dataloader), 'COCO_ROOT would not be looked at'


# Channels and parameters of the classifiers, as torchvision documents them (T, S, B) and timm counts them (L).
# They have a norm and a linear layer behind the last stage; a detector's backbone has a norm for each stage it returns.
CLASSIFIERS = {'t': (96, 28288354), 's': (96, 49606258), 'b': (128, 87768224), 'l': (192, 196532476)}


@pytest.mark.parametrize('name', [name for name in CONFIGS if '-p4-w7' in name and 'nano' not in name])
def test_backbones_have_the_published_number_of_parameters(name, built):
    cfg, model = built(name)
    channels, classifier = CLASSIFIERS[re.search(r'swin-pos-([tsbl])-', name)[1]]
    last = 8 * channels
    norms = sum(2 * channels * 2**stage for stage in model.backbone.out_indices)
    want = classifier - (1000 * last + 1000) - 2 * last + norms
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == want


# In millions, by the Swin authors' detection repository.
DETECTORS = {
    'mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py': 48,
    'mask-rcnn_swin-pos-s-p4-w7_fpn_amp-ms-crop-3x_coco.py': 69,
    'cascade-mask-rcnn_swin-pos-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py': 86,
    'cascade-mask-rcnn_swin-pos-s-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py': 107,
    'cascade-mask-rcnn_swin-pos-b-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py': 145,
}


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_have_the_published_number_of_parameters(name, built):
    assert round(sum(parameter.numel() for parameter in built(name)[1].parameters()) / 1e6) == DETECTORS[name]


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.endswith('_coco.py') and
                                  not re.search('nano|swinv2|deepspeed', name)])
def test_adamw_without_decay_on_norms_tables_and_embeddings(name, built):
    cfg, model = built(name)
    optimizer = build_optim_wrapper(model, {**cfg.optim_wrapper, 'type': 'OptimWrapper'}).optimizer
    norms = {id(p) for module in model.modules() if is_norm(module) for p in module.parameters(recurse=False)}
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    lr = 4e-5 if 'lsj-50e' in name and 'mask-rcnn' in name else 1e-4
    assert isinstance(optimizer, torch.optim.AdamW) and cfg.optim_wrapper.optimizer.lr == lr
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = groups[id(parameter)]
        free = id(parameter) in norms or 'relative_position_bias_table' in key or 'absolute_pos_embed' in key
        free = free or 'layer-decay' in name and parameter.dim() == 1
        free = free or key.startswith('panoptic_head') and re.search('query_embed|query_feat|level_embed', key)
        assert group['weight_decay'] == (0. if free else 0.05), key
        if 'layer-decay' in name:
            assert group['lr'] == pytest.approx(lr * 0.9**(25 - layer_of(key, (2, 2, 18, 2)))), key
        else:
            assert group['lr'] == pytest.approx(lr / 10 if 'mask2former' in name and 'backbone' in key else lr), key


def test_weights_are_those_of_the_backbone(built):
    """Size, window and data of the pretrained weights, by the config's name and by the address."""
    for name in CONFIGS:
        if 'nano' in name or 'swinv2' in name:
            continue
        cfg, model = built(name)
        size, window, resolution, in21k = re.search(r'swin-pos-([tsbl])-p4-w(\d+)(?:-(\d+))?(-in21k)?', name).groups()
        table = model.backbone.stages[0].blocks[0].attn.w_msa.relative_position_bias_table
        trained = (int(len(table)**0.5) + 1) // 2
        word = dict(t='tiny', s='small', b='base', l='large')[size]
        address = f'{RELEASE}/swin_{word}_patch4_window{trained}_{resolution or 224}{"_22k" if in21k else ""}.pth'
        assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=address), name
        assert int(window) == cfg.model.backbone.get('window_size', 7), name


def test_cascade_is_the_papers_recipe():
    cfg = Config.fromfile(FOLDER / 'cascade-mask-rcnn_swin-pos-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py')
    for head in cfg.model.roi_head.bbox_head:
        assert head.loss_bbox.type == 'GIoULoss' and head.reg_decoded_bbox
        assert (head.num_shared_convs, head.num_shared_fcs, head.norm_cfg.type) == (4, 1, 'SyncBN')
    # As the README says to go without SyncBN.
    cfg.merge_from_dict({f'model.roi_head.bbox_head.{stage}.norm_cfg.type': 'BN' for stage in range(3)})
    assert 'SyncBN' not in str(cfg.model)
    mask_rcnn = Config.fromfile(FOLDER / 'mask-rcnn_swin-pos-t-p4-w7_fpn_amp-ms-crop-3x_coco.py')
    for part in ('train_dataloader', 'val_dataloader', 'val_evaluator', 'param_scheduler', 'train_cfg', 'auto_scale_lr',
                 'custom_imports'):
        assert cfg[part] == mask_rcnn[part], part
    assert 'convnext' not in str(cfg.to_dict()).lower()


def test_lsj_is_vitdets_recipe():
    cfg = Config.fromfile(FOLDER / 'mask-rcnn_swin-pos-b-p4-w7_fpn_rpn-2conv_4conv1fc_ln-all_amp-lsj-50e_coco.py')
    dataset = cfg.train_dataloader.dataset
    assert cfg.train_cfg.max_epochs * dataset.times == 50
    jitter, crop = (next(step for step in dataset.dataset.pipeline if step.type == kind)
                    for kind in ('RandomResize', 'RandomCrop'))
    assert (jitter.scale, jitter.ratio_range, crop.crop_size) == ((1024, 1024), (0.1, 2.0), (1024, 1024))
    assert [step.scale for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize'] == [(1024, 1024)]
    norms = [cfg.model.neck.norm_cfg, cfg.model.roi_head.bbox_head.norm_cfg, cfg.model.roi_head.mask_head.norm_cfg]
    assert norms == 3 * [dict(type='LayerNorm2d', eps=1e-6)]
    assert (cfg.model.rpn_head.num_convs, cfg.model.roi_head.bbox_head.type) == (2, 'Shared4Conv1FCBBoxHead')
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=64)


# name -> what is different from the demo
VARIANTS = {
    'elastic_fpn': {'custom_hooks': [*FAST, dict(type='ElasticWindowHook', windows=[4, 5, 6, 8, 10, 12, 14],
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
