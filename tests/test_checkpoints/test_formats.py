"""Checkpoints of other libraries: found by their keys, loaded on every path, equal in what they compute.

The golden files were written by the libraries themselves, see tests/golden.
"""
from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from swin_pos_det.checkpoints import (
    EXPORTS,
    adapt_channels,
    convert,
    detect_format,
    load_checkpoint_file,
    read_weights,
    save_weights,
)
from swin_pos_det.layers import resample_table
from swin_pos_det.models import SwinPosTransformer

GOLDEN = Path(__file__).parents[1] / 'golden'
NAMES = sorted(path.stem for path in GOLDEN.glob('swin_*.pth'))
TITLES = dict(swin_timm="timm's", swin_timm_old="the Swin authors'", swin_microsoft="the Swin authors'",
              swin_microsoft_det="the Swin authors'", swin_simmim="the Swin authors'", swin_moby="the Swin authors'",
              swin_torchvision="torchvision's", swin_mmpretrain="OpenMMLab's")
MICRO = dict(embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1, 2),
             mlp_ratio=2, drop_path_rate=0.)
PATHS = ('init_cfg', 'load_from', 'load_state_dict')
TABLE = 'stages.1.blocks.1.attn.w_msa.relative_position_bias_table'


def golden(name):
    return load_checkpoint_file(GOLDEN / f'{name}.pth')


def micro(name='', **settings):
    absolute = dict(use_abs_pos_embed=True, pretrain_img_size=112) if name == 'swin_microsoft_det' else {}
    return SwinPosTransformer(**{**MICRO, **absolute, **settings}).eval()


def detector_with(backbone):
    detector = nn.Module()
    detector.backbone, detector.neck = backbone, nn.Linear(2, 2)
    return detector


def load(checkpoint, path, tmp_path, **settings):
    """Build a backbone and load the weights in one of the possible ways."""
    file = tmp_path / 'file.pth'
    torch.save(checkpoint, file)
    if path == 'init_cfg':
        model = micro(**settings, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
        model.init_weights()
    elif path == 'load_from':  # as Runner.load_checkpoint and mmdet.apis.init_detector do
        model = micro(**settings)
        load_checkpoint(detector_with(model), str(file), strict=False)
    else:
        model = micro(**settings)
        model.load_state_dict(checkpoint, strict=False)
    return model.eval()


def image():
    i, j = torch.arange(224, dtype=torch.float64).view(-1, 1), torch.arange(224, dtype=torch.float64)
    return torch.stack([torch.sin(0.1 * i * (c + 1)) * torch.cos(0.07 * j + c) for c in range(3)])[None].float()


def features(model, output_norms):
    """Return the outputs, without their norms' weights where the golden file has them so."""
    if not output_norms:
        for index in range(3):
            norm = getattr(model, f'norm{index}')
            norm.weight.data.fill_(1.)
            norm.bias.data.fill_(0.)
    with torch.no_grad():
        return model(image())


@pytest.mark.parametrize('name', NAMES)
def test_detected_by_its_keys(name):
    weights = read_weights(golden(name)['checkpoint'])
    assert weights.format.title == TITLES.get(name, "Hugging Face's")


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', NAMES)
def test_computes_what_the_original_computes(name, path, tmp_path):
    found = golden(name)
    settings = dict(use_abs_pos_embed=True, pretrain_img_size=112) if name == 'swin_microsoft_det' else {}
    model = load(found['checkpoint'], path, tmp_path, **settings)
    got = features(model, found['features_are'] == 'outputs')
    for stage, (ours, theirs) in enumerate(zip(got, found['features'])):
        assert theirs.std() > 0.3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=lambda text, s=stage: f'stage {s}: {text}')


def with_window(checkpoint, window):
    """Return the checkpoint with random tables for another window, index buffers left as they are."""
    changed = copy.deepcopy(checkpoint)
    inner = next((changed[name] for name in ('model', 'state_dict') if name in changed), changed)
    generator = torch.Generator().manual_seed(0)
    for key, value in inner.items():
        if key.endswith('relative_position_bias_table'):
            rows = (2 * window[0] - 1) * (2 * window[1] - 1)
            inner[key] = torch.randn(rows, value.shape[1], generator=generator)
    return changed


@pytest.mark.parametrize(('source', 'target'), [((7, 7), (12, 12)), ((7, 7), (7, 14)), ((12, 12), (7, 7))])
@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', NAMES)
def test_tables_are_resampled_as_microsoft_resamples_them(name, path, source, target, tmp_path):
    checkpoint = with_window(golden(name)['checkpoint'], source)
    learned = read_weights(checkpoint).state_dict[TABLE]
    absolute = dict(use_abs_pos_embed=True, pretrain_img_size=112) if name == 'swin_microsoft_det' else {}
    model = load(checkpoint, path, tmp_path, window_size=target, **absolute)
    # Swin-Transformer, utils.py, load_pretrained
    pictures = learned.permute(1, 0).view(1, 2, 2 * source[0] - 1, 2 * source[1] - 1)
    size = (2 * target[0] - 1, 2 * target[1] - 1)
    want = F.interpolate(pictures, size=size, mode='bicubic').view(2, -1).permute(1, 0)
    torch.testing.assert_close(model.get_parameter(TABLE).detach(), want, rtol=0, atol=1e-6)
    assert len(model.load_report.resampled) == 6
    assert features(model, True)[2].isfinite().all()


@pytest.mark.parametrize('name', ['swin_timm', 'swin_hf_model', 'swin_torchvision'])
def test_tables_are_resampled_geometrically_if_asked(name):
    checkpoint = golden(name)['checkpoint']
    model = micro(window_size=12, resampling='geometric')
    model.load_state_dict(checkpoint, strict=True)
    want = resample_table(read_weights(checkpoint).state_dict[TABLE], (7, 7), (12, 12), 'geometric')
    torch.testing.assert_close(model.get_parameter(TABLE).detach(), want)


@pytest.mark.parametrize('name', NAMES)
def test_strict_loading_takes_a_classifier_and_keeps_new_norms(name):
    model = micro(name)
    before = {key: value.clone() for key, value in model.state_dict().items() if key.startswith('norm')}
    model.load_state_dict(golden(name)['checkpoint'], strict=True)
    new = model.load_report.new
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in new)
    count = dict(swin_microsoft_det=0, swin_hf_backbone=0, swin_hf5_backbone=0, swin_hf5_saved=0, swin_mmpretrain=4)
    assert len(new) == count.get(name, 6)


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('wrap', ['module.', 'encoder.', 'backbone.', 'module.backbone.', 'model.backbone.',
                                  'backbone.0.', 'img_backbone.', 'module.student.'])
def test_prefixes_of_other_people(wrap, path, tmp_path):
    state = golden('swin_microsoft')['checkpoint']['model']
    wrapped = {f'{wrap}{key}': value for key, value in state.items()}
    model = load(wrapped, path, tmp_path)
    want = state['layers.1.blocks.1.attn.relative_position_bias_table']
    assert torch.equal(model.get_parameter(TABLE).detach(), want)


@pytest.mark.parametrize('path', PATHS)
def test_self_supervised_files_say_what_is_left(path, tmp_path):
    report = load(golden('swin_simmim')['checkpoint'], path, tmp_path).load_report
    assert "under 'encoder.'" in report.found
    assert {'encoder.mask_token', 'encoder.norm.weight', 'decoder.0.weight'} <= set(report.unused)
    report = load(golden('swin_moby')['checkpoint'], path, tmp_path).load_report
    assert "under 'encoder.', not those under 'encoder_k.'" in report.found
    assert {'queue1', 'predictor.linear_out.bias'} <= set(report.unused)


@pytest.mark.parametrize('container', ['model', 'state_dict'])
@pytest.mark.parametrize('name', ['img_backbone', 'student.backbone'])
def test_backbones_of_other_names_find_a_bare_file(tmp_path, container, name):
    torch.save({container: golden('swin_timm')['checkpoint']}, tmp_path / 'swin.pth')
    model = micro()
    parent = detector = nn.Module()
    for part in name.split('.')[:-1]:
        parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.add_module(name.split('.')[-1], model)
    load_checkpoint(detector, str(tmp_path / 'swin.pth'))
    want = golden('swin_timm')['checkpoint']['layers.1.blocks.1.attn.relative_position_bias_table']
    assert torch.equal(model.get_parameter(TABLE).detach(), want)


def test_the_backbone_comes_before_other_swins():
    state = golden('swin_microsoft')['checkpoint']['model']
    wrapped = {f'aux.{key}': torch.zeros_like(value) for key, value in state.items()}
    wrapped.update({f'backbone.{key}': value for key, value in state.items()})
    assert read_weights(wrapped).prefix == 'backbone.' and read_weights(wrapped).others == ['aux.']


def test_norms_beside_the_prefix_are_those_of_the_same_model():
    state = golden('swin_hf_backbone')['checkpoint']
    teacher = {f'teacher.{key}': torch.full_like(value, 7.) if value.is_floating_point() else value
               for key, value in state.items()}
    both = {**{f'student.{key}': value for key, value in state.items()}, **teacher}
    weights = read_weights(both)
    assert weights.prefix == 'student.'
    assert torch.equal(weights.state_dict['norm0.weight'], state['hidden_states_norms.stage1.weight'])
    assert 'teacher.hidden_states_norms.stage1.weight' in weights.unused


@pytest.mark.parametrize(('settings', 'advice'), [
    (dict(patch_norm=False), r'patch_embed.norm.weight of shape \(8,\), would be left out.*patch_norm=True'),
    (dict(qkv_bias=False), r'qkv.bias of shape \(24,\), would be left out.*qkv_bias=True'),
    (dict(mlp_ratio=4), r'\(16, 8\), the model \(32, 8\).*mlp_ratio=2.0'),
    (dict(depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1)), None),
])
def test_weights_that_the_features_depend_on_are_not_left_out(settings, advice):
    model = micro(**settings)
    if advice is None:  # a shorter model computes the same, as far as it goes
        model.load_state_dict(golden('swin_timm')['checkpoint'])
        for ours, theirs in zip(features(model, True), golden('swin_timm')['features']):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        return
    with pytest.raises(ValueError, match=advice):
        model.load_state_dict(golden('swin_timm')['checkpoint'])


def test_an_absolute_embedding_is_not_left_out():
    with pytest.raises(ValueError, match=r'absolute_pos_embed of shape .* would be left out.*use_abs_pos_embed=True'):
        micro().load_state_dict(golden('swin_microsoft_det')['checkpoint'])


def test_a_longer_model_is_told_what_it_needs():
    model = micro(depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), strides=(4, 2, 2, 2), out_indices=(0, 1, 2, 3))
    with pytest.raises(ValueError, match=r'would stay random.*strides=\(4, 2, 2\), out_indices=\(0, 1, 2\)'):
        model.load_state_dict(golden('swin_timm')['checkpoint'])


@pytest.mark.parametrize(('source', 'target'), [((112, 56), (56, 112)), ((112, 56), (64, 64))])
def test_rectangular_absolute_grids_are_told_apart(source, target):
    absolute = dict(use_abs_pos_embed=True)
    trained, model = micro(pretrain_img_size=source, **absolute), micro(pretrain_img_size=target, **absolute)
    torch.nn.init.normal_(trained.absolute_pos_embed)
    model.load_state_dict(trained.state_dict())
    grid = (source[0] // 4, source[1] // 4)
    want = F.interpolate(trained.absolute_pos_embed.detach().view(1, *grid, 8).permute(0, 3, 1, 2),
                         size=(target[0] // 4, target[1] // 4), mode='bicubic').flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.absolute_pos_embed.detach(), want, rtol=0, atol=1e-6)
    again = micro(pretrain_img_size=source, **absolute)
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again.absolute_pos_embed, trained.absolute_pos_embed)


@pytest.mark.parametrize('how', ['safetensors', 'pth', 'index buffers'])
def test_a_files_rectangular_windows_are_told_apart(how, tmp_path):
    weights = read_weights(golden('swin_timm')['checkpoint'])
    windows = [(7, 14), (7, 14), (7, 14)]
    if how == 'index buffers':
        checkpoint = convert(weights, 'hf', (7, 14))
    else:
        save_weights(convert(weights, window=(7, 14)), tmp_path / f'swin.{how}', windows=windows)
        checkpoint = load_checkpoint_file(tmp_path / f'swin.{how}')
    found = read_weights(checkpoint)
    assert [tuple(window) for window in found.windows] == windows
    model = micro(window_size=(14, 7))
    model.load_state_dict(checkpoint, strict=False)
    want = resample_table(found.state_dict[TABLE], (7, 14), (14, 7))
    torch.testing.assert_close(model.get_parameter(TABLE).detach(), want, rtol=0, atol=1e-6)


def test_a_square_foreign_table_with_the_rows_of_a_rectangle():
    state = {key: torch.randn(225, value.shape[1]) if key.endswith('table') else value
             for key, value in golden('swin_timm')['checkpoint'].items()}
    model = micro(window_size=(5, 13))  # 225 rows too
    model.load_state_dict(state)
    assert 'window (8, 8) to (5, 13)' in model.load_report.lines()[1]


def test_index_buffers_of_each_stage_are_its_own():
    model = micro(window_size=[(7, 14), (14, 7), 7])
    exported = convert(read_weights(model.state_dict()), 'mmdet')
    back = read_weights(exported)
    assert back.windows == [(7, 14), (14, 7), (7, 7)]


@pytest.mark.parametrize('averaged', ['state_dict_ema', 'model_ema'])
def test_averaged_weights_come_first(averaged):
    state = golden('swin_timm')['checkpoint']
    plain = {key: torch.zeros_like(value) for key, value in state.items()}
    found = {f'module.{key}': value for key, value in state.items()}
    checkpoint = {'epoch': 3, averaged.replace('_ema', ''): plain, averaged: {**found, 'n_averaged': torch.tensor(9)}}
    weights = read_weights(checkpoint)
    assert weights.container == averaged and weights.prefix == 'module.'
    model = micro()
    model.load_state_dict(checkpoint, strict=True)
    assert model.get_parameter(TABLE).abs().sum() > 0


@pytest.mark.parametrize('checkpoint', [
    lambda state, plain: {'model': plain, 'ema': {'module': state}, 'epoch': 1},
    lambda state, plain: {'model': plain, 'ema_model': state},
    lambda state, plain: {'student': plain, 'teacher': state},
])
def test_more_averaged_weights(checkpoint, tmp_path):
    state = golden('swin_timm')['checkpoint']
    plain = {key: torch.zeros_like(value) for key, value in state.items()}
    model = load(checkpoint(state, plain), 'load_from', tmp_path)
    assert model.get_parameter(TABLE).abs().sum() > 0


def test_timms_feature_extractor():
    state = {key.replace('layers.', 'layers_'): value for key, value in golden('swin_timm')['checkpoint'].items()}
    assert detect_format(state)[0].name == 'timm'
    flat, usual = micro(), micro()
    flat.load_state_dict(state)
    usual.load_state_dict(golden('swin_timm')['checkpoint'])
    assert all(torch.equal(value, usual.state_dict()[key]) for key, value in flat.state_dict().items())


@pytest.mark.parametrize('path', ['init_cfg', 'load_from'])
def test_safetensors(path, tmp_path):
    from safetensors.torch import save_file
    state = {key: value.clone() for key, value in golden('swin_hf_model')['checkpoint'].items()}
    file = str(tmp_path / 'renamed.pth')  # its name does not matter
    save_file(state, file)
    model = micro(init_cfg=dict(type='Pretrained', checkpoint=file) if path == 'init_cfg' else None)
    if path == 'init_cfg':
        model.init_weights()
    else:
        load_checkpoint(detector_with(model), file)
    want = state['encoder.layers.1.blocks.1.attention.self.relative_position_bias_table']
    assert torch.equal(model.get_parameter(TABLE).detach(), want)


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('kind', ['arrays', 'tensors'])
@pytest.mark.parametrize('path', ['init_cfg', 'load_from'])
def test_plain_pickles(kind, protocol, path, tmp_path):
    """As detectron2 (arrays) and Mask2Former's converter (tensors) write their .pkl files."""
    found, file = golden('swin_microsoft_det'), tmp_path / 'model.pkl'
    weights = {key: value.numpy() if kind == 'arrays' else value
               for key, value in found['checkpoint']['state_dict'].items()}
    assert 'backbone.layers.0.blocks.0.attn.qkv.weight' in weights
    content = {'model': weights, '__author__': 'third_party', 'matching_heuristics': True}
    file.write_bytes(pickle.dumps(content, protocol))
    model = micro('swin_microsoft_det', init_cfg=dict(type='Pretrained', checkpoint=str(file)))
    if path == 'init_cfg':
        model.init_weights()
    else:
        load_checkpoint(detector_with(model), str(file), strict=False)
    for output, expected in zip(features(model, True), found['features']):
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 7])
def test_the_patch_embedding_takes_images_of_other_channels(channels):
    checkpoint = golden('swin_timm')['checkpoint']
    model, usual = micro(in_channels=channels), micro()
    model.load_state_dict(checkpoint)
    usual.load_state_dict(checkpoint)
    weight = model.patch_embed.projection.weight.detach()
    torch.testing.assert_close(weight.sum(1), checkpoint['patch_embed.proj.weight'].sum(1), rtol=0, atol=1e-6)
    assert 'from 3 to' in model.load_report.adapted['patch_embed.projection.weight']
    x = torch.randn(1, 1, 56, 56).expand(-1, 3, -1, -1) if channels < 3 else torch.randn(1, 3, 56, 56)
    more = x[:, [c % 3 for c in range(channels)]]
    with torch.no_grad():
        for got, want in zip(model(more), usual(x)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_channels_stay_as_they_are():
    weight = torch.randn(4, 3, 2, 2)
    assert torch.equal(adapt_channels(weight, 3), weight)


def test_the_report_counts_and_details(caplog):
    model = micro(window_size=12, in_channels=1)
    checkpoint = golden('swin_mmpretrain')['checkpoint']
    with caplog.at_level(logging.INFO, 'mmengine'):
        model.load_state_dict(checkpoint, strict=True)
    report = model.load_report
    assert "custom in OpenMMLab's names, under 'backbone.'" in report.found
    assert report.lines()[1:] == [
        'resampled 6: relative position bias tables from 13x13 to 23x23 (window (7, 7) to (12, 12), bicubic)',
        'adapted 1: patch embedding from 3 to 1 channels',
        'new 4: norm0.weight, norm0.bias, norm1.weight, ..',
        'unused 2: head.fc.weight, head.fc.bias']
    kinds = [line.split()[0] for line in report.details().splitlines()]
    parameters = len(list(model.parameters()))
    assert [kinds.count(kind) for kind in ('resampled', 'adapted', 'new', 'unused')] == [6, 1, 4, 2]
    assert kinds.count('loaded') == parameters - 6 - 1 - 4 and f'loaded {kinds.count("loaded")} ' in report.lines()[0]


@pytest.mark.parametrize(('settings', 'advice'), [
    (dict(embed_dims=16, num_heads=(1, 2, 4)), r'\(8, 3, 4, 4\), the model \(16, 3, 4, 4\).*embed_dims=8'),
    (dict(num_heads=(2, 4, 8)), r'\(169, 1\), the model \(169, 2\).*num_heads=\(1, 2, 4\)'),
    (dict(depths=(2, 2, 4)), r'stages.2.blocks.2.*would stay random.*depths=\(2, 2, 2\)'),
    (dict(depths=(2, 1, 2)), r'stages.1.blocks.1.*would be left out.*depths=\(2, 2, 2\)'),
])
@pytest.mark.parametrize('path', PATHS)
def test_what_cannot_be_used_says_what_would_fit(settings, advice, path, tmp_path):
    with pytest.raises(ValueError, match=advice):
        load(golden('swin_timm')['checkpoint'], path, tmp_path, **settings)


def test_the_papers_variants_are_named():
    model = SwinPosTransformer(depths=(2, 2, 18, 2))
    with pytest.raises(ValueError, match=r'those of a Swin-T \(.*the model is a Swin-S \(.*depths=\(2, 2, 6, 2\)'):
        model.load_state_dict(SwinPosTransformer().state_dict())


# Writing

@pytest.mark.parametrize(('to', 'keys'), [('timm', 'timm'), ('hf', 'hf'), ('microsoft', 'microsoft')])
@pytest.mark.parametrize('name', ['swin_timm', 'swin_hf_backbone', 'swin_mmpretrain', 'swin_torchvision'])
def test_exported_keys_and_shapes_are_the_librarys(name, to, keys):
    model = micro()
    model.load_state_dict(golden(name)['checkpoint'])
    exported = convert(read_weights(model.state_dict()), to)
    want = json.loads((GOLDEN / 'keys.json').read_text())[keys]
    assert {key: list(value.shape) for key, value in exported.items()} == want


def test_export_to_torchvision_gives_back_its_own_file():
    theirs = golden('swin_torchvision')['checkpoint']
    model = micro()
    model.load_state_dict(theirs)
    exported = convert(read_weights(model.state_dict()), 'torchvision')
    assert exported.keys() == {key for key in theirs if not key.startswith('head.')}
    assert all(torch.equal(exported[key], theirs[key]) for key in exported if not key.startswith('norm.'))


def test_export_to_mmdet_loads_there_strictly():
    from mmdet.models.backbones.swin import SwinTransformer
    model = micro()
    model.load_state_dict(golden('swin_timm')['checkpoint'])
    theirs = SwinTransformer(**MICRO)
    theirs.load_state_dict(convert(read_weights(model.state_dict()), 'mmdet'), strict=True)
    theirs.eval()
    with torch.no_grad():
        for ours, other in zip(model(image()), theirs(image())):
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize('to', EXPORTS)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_there_and_back(to, suffix, tmp_path):
    model = micro()
    model.load_state_dict(golden('swin_hf_backbone')['checkpoint'])
    weights = read_weights(model.state_dict())
    save_weights(convert(weights, to), tmp_path / f'new/swin{suffix}', to)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == [f'swin{suffix}'], 'no draft is left'
    back = read_weights(load_checkpoint_file(tmp_path / f'new/swin{suffix}'))
    assert back.format.name == to
    without_norms = to in ('timm', 'torchvision')
    kept = [key for key in weights.state_dict if not without_norms or not key.startswith('norm')]
    assert all(torch.equal(back.state_dict[key], weights.state_dict[key]) for key in kept)


def test_conversion_to_another_window_notes_it(tmp_path):
    weights = read_weights(golden('swin_timm')['checkpoint'])
    save_weights(convert(weights, window=(7, 14)), tmp_path / 'swin.pth', windows=[(7, 14)] * 3)
    model = micro(window_size=(14, 7))  # as many rows
    model.load_state_dict(load_checkpoint_file(tmp_path / 'swin.pth'))
    once = resample_table(weights.state_dict[TABLE], (7, 7), (7, 14))
    torch.testing.assert_close(model.get_parameter(TABLE).detach(), resample_table(once, (7, 14), (14, 7)))
    with pytest.raises(ValueError, match="unknown format 'keras': write one of mmdet, timm, microsoft, hf"):
        convert(weights, 'keras')


def test_others_get_foreign_files_as_they_are(tmp_path):
    checkpoint = golden('swin_microsoft')['checkpoint']
    torch.save(checkpoint, tmp_path / 'swin.pth')
    found = load_checkpoint_file(tmp_path / 'swin.pth')
    assert set(found) == set(checkpoint) and list(found['model']) == list(checkpoint['model'])
    assert all(torch.equal(value, checkpoint['model'][key]) for key, value in found['model'].items())


@pytest.mark.parametrize('window', [7, 12])
def test_tables_of_half_precision(window):
    state = golden('swin_timm')['checkpoint']
    model = micro(window_size=window)
    model.load_state_dict({key: value.half() for key, value in state.items()})
    learned = state['layers.1.blocks.1.attn.relative_position_bias_table'].half().float()
    want = resample_table(learned, (7, 7), (window, window))
    torch.testing.assert_close(model.get_parameter(TABLE).detach(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize('window', [7, 12])
@pytest.mark.parametrize('key', ['attn.relative_position_bias_table', 'mlp.fc1.weight'])
def test_integers_are_no_weights(key, window):
    state = golden('swin_timm')['checkpoint']
    key = f'layers.0.blocks.0.{key}'
    with pytest.raises(ValueError, match='stages.0.blocks.0.*the checkpoint has int8, not floating-point numbers'):
        micro(window_size=window).load_state_dict({**state, key: (state[key] * 16).to(torch.int8)})


@pytest.mark.parametrize('path', ['load_from', 'load_state_dict'])
def test_metadata_that_is_none(path, tmp_path):
    state = micro().state_dict()
    state._metadata = None
    model = load(state, path, tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda state: {**state, 'layers.0.downsample.reduction.weight': torch.zeros(16, 33)}, 'but not the layout'),
    (lambda state: {**state, 'layers.0.blocks.0.attn.relative_position_bias_table': torch.zeros(169)}, r'\(169,\)'),
    (lambda state: {**state, 'patch_embed.proj.weight': 'text'}, 'the checkpoint has a str, not a tensor'),
])
def test_weights_that_are_laid_out_otherwise(spoil, message):
    with pytest.raises(ValueError, match=message):
        micro().load_state_dict(spoil(golden('swin_microsoft')['checkpoint']['model']), strict=False)


def test_keys_that_are_no_names(tmp_path):
    state = golden('swin_timm')['checkpoint']
    torch.save({0: 'a note', 'model': {**state, 1: torch.zeros(1)}}, tmp_path / 'swin.pth')
    model = micro(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth')))
    model.init_weights()
    assert torch.equal(model.patch_embed.norm.weight, state['patch_embed.norm.weight'])


@pytest.mark.parametrize(('to', 'message'), [('timm', 'has no absolute position embedding'),
                                             ('torchvision', 'has no absolute position embedding')])
def test_what_a_library_has_not_is_not_exported(to, message):
    weights = read_weights(micro(use_abs_pos_embed=True, pretrain_img_size=(112, 56)).state_dict())
    with pytest.raises(ValueError, match=message):
        convert(weights, to)


@pytest.mark.parametrize('image', [(112, 56), (16, 64)])  # the latter has as many tokens as a square grid
def test_a_rectangular_absolute_embedding_becomes_a_map(image):
    absolute = dict(use_abs_pos_embed=True, pretrain_img_size=image)
    trained, model = micro(**absolute), micro(**absolute)
    torch.nn.init.normal_(trained.absolute_pos_embed)
    exported = convert(read_weights(trained.state_dict()), 'microsoft')
    assert exported['absolute_pos_embed'].shape == (1, 8, image[0] // 4, image[1] // 4)
    model.load_state_dict({'model': exported}, strict=False)
    assert torch.equal(model.absolute_pos_embed, trained.absolute_pos_embed)
    if image == (112, 56):
        with pytest.raises(ValueError, match='does not show the grid of its 392 tokens'):
            convert(read_weights(dict(trained.state_dict())), 'microsoft')


def test_only_the_backbone_is_exported():
    state = dict(micro().state_dict(), **{'neck.weight': torch.zeros(2), 'fc.weight': torch.zeros(2, 2)})
    assert not {'neck.weight', 'fc.weight'} & set(convert(read_weights(state), 'hf'))
