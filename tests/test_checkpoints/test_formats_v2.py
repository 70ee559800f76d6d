"""Swin V2 checkpoints of other libraries: found by their keys, loaded on every path, equal in what they compute.

The golden files were written by the libraries themselves, see tests/golden.
"""
from __future__ import annotations

import json

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint

from swin_pos_det.checkpoints import (
    EXPORTS,
    convert,
    incompatibilities,
    inspect_checkpoint,
    load_checkpoint_file,
    read_weights,
    save_weights,
)
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from tests.test_checkpoints.test_formats import GOLDEN, MICRO, PATHS, detector_with
from tests.test_checkpoints.test_formats import load as load_v1
from tests.test_tools.test_converters import run

NAMES = sorted(path.stem for path in GOLDEN.glob('swinv2_*.pth'))
TITLES = dict(swinv2_timm="timm's", swinv2_timm_old="the Swin authors'", swinv2_microsoft="the Swin authors'",
              swinv2_simmim="the Swin authors'", swinv2_torchvision="torchvision's", swinv2_mmpretrain="mmpretrain's")
# Which windows offsets were measured by in training: the files of these libraries say it.
LEARNED = dict(swinv2_microsoft=[(4, 4), (4, 4), (3, 3)], swinv2_mmpretrain=[(4, 4), (4, 4), (3, 3)],
               swinv2_simmim=[(6, 6)] * 3, swinv2_torchvision=[(6, 6)] * 3)
MERGING = 'stages.0.downsample.reduction.weight'


def golden(name):
    return load_checkpoint_file(GOLDEN / f'{name}.pth')


def micro(name='', **settings):
    learned = LEARNED.get(name, [(4, 4), (4, 4), (3, 3)])
    return SwinPosTransformerV2(**{**MICRO, 'window_size': 6, 'pretrained_window_sizes': learned, **settings}).eval()


def load(name, path, tmp_path, **settings):
    checkpoint, file = golden(name)['checkpoint'], tmp_path / 'file.pth'
    torch.save(checkpoint, file)
    if path == 'init_cfg':
        model = micro(name, init_cfg=dict(type='Pretrained', checkpoint=str(file)), **settings)
        model.init_weights()
    elif path == 'load_from':
        model = micro(name, **settings)
        load_checkpoint(detector_with(model), str(file))
    else:
        model = micro(name, **settings)
        model.load_state_dict(checkpoint, strict=True)
    return model.eval()


def image():
    i, j = torch.arange(192, dtype=torch.float64).view(-1, 1), torch.arange(192, dtype=torch.float64)
    return torch.stack([torch.sin(0.1 * i * (c + 1)) * torch.cos(0.07 * j + c) for c in range(3)])[None].float()


def outputs(model, dtype=torch.float32):
    """Return the outputs without the weights of the output norms, as the golden files have them."""
    for index in range(3):
        norm = getattr(model, f'norm{index}')
        norm.weight.data.fill_(1.)
        norm.bias.data.fill_(0.)
    with torch.no_grad():
        return model.to(dtype)(image().to(dtype))


@pytest.mark.parametrize('name', NAMES)
def test_detected_by_its_keys(name):
    weights = read_weights(golden(name)['checkpoint'])
    assert (weights.format.title, weights.format.version) == (TITLES.get(name, "Hugging Face's"), 2)
    assert weights.windows == LEARNED.get(name) and weights.position == 'log_cpb'


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('name', NAMES)
def test_computes_what_the_original_computes(name, path, tmp_path):
    model = load(name, path, tmp_path)
    # The originals computed in float64, so there little but the rounding of what they stored is left.
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        for stage, (ours, theirs) in enumerate(zip(outputs(model, dtype), golden(name)['features'])):
            assert theirs.std() > 0.3
            torch.testing.assert_close(ours, theirs.to(dtype), rtol=0, atol=tolerance,
                                       msg=lambda text, s=stage: f'stage {s}: {text}')
    assert model.load_report.new == ([f'norm{i}.{kind}' for i in range(3 - (name == 'swinv2_mmpretrain'))
                                      for kind in ('weight', 'bias')])


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('window', [12, (6, 12)])
def test_another_window_needs_no_resampling(name, window, tmp_path):
    usual, other = load(name, 'load_state_dict', tmp_path), load(name, 'load_state_dict', tmp_path, window_size=window)
    assert all(torch.equal(value, usual.state_dict()[key]) for key, value in other.state_dict().items())
    assert not other.load_report.resampled and not other.load_report.adapted
    other.set_window_size(6)
    with torch.no_grad():
        x = torch.randn(1, 3, 96, 96)
        assert all(torch.equal(a, b) for a, b in zip(usual(x), other(x)))


def order_of_four_tokens(name):
    """Return the input channel of the first patch merging that each library's file has for each token and channel."""
    numbered = golden(name)['checkpoint']
    inner = numbered.get('model', numbered.get('state_dict', numbered))
    key = next(key for key, value in inner.items() if tuple(value.shape) == (16, 32) and 'reduction' in key)
    inner[key] = torch.arange(32.).expand(16, -1)
    return read_weights(numbered).state_dict[MERGING][0].view(8, 2, 2)  # ours: channel, row, column


@pytest.mark.parametrize('name', NAMES)
def test_patch_merging_takes_the_tokens_in_each_librarys_order(name):
    got = order_of_four_tokens(name)
    channels = torch.arange(8.)
    if name == 'swinv2_mmpretrain':  # Unfold: channel, row, column
        want = torch.arange(32.).view(8, 2, 2)
    else:  # (row, column): (0, 0), (1, 0), (0, 1), (1, 1), each with all channels
        want = torch.stack([channels, channels + 16, channels + 8, channels + 24], -1).view(8, 2, 2)
    assert torch.equal(got, want)


@pytest.mark.parametrize('name', NAMES)
def test_norms_of_patch_merging_are_not_reordered(name):
    """In V2 they come after the reduction, so they have no order of tokens."""
    own = read_weights(golden(name)['checkpoint']).state_dict
    inner = golden(name)['checkpoint']
    inner = inner.get('model', inner.get('state_dict', inner))
    norms = [value for key, value in inner.items() if key.endswith('norm.weight') and value.shape == (16, )]
    assert any(torch.equal(own['stages.0.downsample.norm.weight'], norm) for norm in norms)


@pytest.mark.parametrize('name', list(LEARNED))
@pytest.mark.parametrize('path', PATHS)
def test_offsets_measured_otherwise_than_in_training_raise(name, path, tmp_path):
    with pytest.raises(ValueError, match=r'measures them by .*pretrained_window_sizes=\[\((6|4), (6|4)\), '):
        load(name, path, tmp_path, pretrained_window_sizes=5)


def test_files_that_do_not_say_it_are_noted(tmp_path):
    report = load('swinv2_timm', 'load_state_dict', tmp_path).load_report
    assert report.lines()[-1] == (
        'position: the file does not say by which window offsets were measured in training; the model measures by '
        '(4, 4), (4, 4), (3, 3) (pretrained_window_sizes)')
    assert not load('swinv2_microsoft', 'load_state_dict', tmp_path).load_report.notes


def test_torchvisions_bias_of_keys_is_left_out():
    checkpoint = golden('swinv2_torchvision')['checkpoint']
    bias = checkpoint['features.1.0.attn.qkv.bias']
    own = read_weights(checkpoint).state_dict
    assert torch.equal(own['stages.0.blocks.0.attn.w_msa.q_bias'], bias[:8])
    assert torch.equal(own['stages.0.blocks.0.attn.w_msa.v_bias'], bias[16:])
    assert bias[8:16].abs().sum() > 0 and 'stages.0.blocks.0.attn.w_msa.qkv.bias' not in own


@pytest.mark.parametrize('path', PATHS)
def test_versions_are_told_apart(path, tmp_path):
    with pytest.raises(ValueError, match=r"Swin V1, in timm's names; .* V2: .*type='SwinPosTransformer'"):
        load('swin_timm', path, tmp_path)
    with pytest.raises(ValueError, match=r"Swin V2, in timm's names; .*type='SwinPosTransformerV2'"):
        load_v1(golden('swinv2_timm')['checkpoint'], path, tmp_path)


def test_timms_other_v2_is_refused_by_name():
    state = {'stages.0.blocks.0.attn.qkv.weight': torch.zeros(1), 'stages.0.blocks.0.attn.logit_scale': torch.zeros(1),
             'stages.0.blocks.0.attn.meta_mlp.fc1.weight': torch.zeros(1)}
    with pytest.raises(ValueError, match="timm's swinv2_cr, which is another model"):
        micro().load_state_dict(state)


def test_our_own_files_are_ours(tmp_path):
    """And not mmpretrain's, whose names they share except for the place of patch merging."""
    model = load('swinv2_hf_backbone', 'load_state_dict', tmp_path)
    weights = read_weights(model.state_dict())
    assert weights.format.title == "this project's" and not weights.foreign
    assert weights.windows == [[4, 4], [4, 4], [3, 3]]
    again = micro()
    again.load_state_dict(model.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model), outputs(again)))


def test_other_channels_and_widths():
    model = micro(in_channels=4)
    model.load_state_dict(golden('swinv2_timm')['checkpoint'])
    assert 'from 3 to 4 channels' in model.load_report.adapted['patch_embed.projection.weight']
    with pytest.raises(ValueError, match=r'num_heads=\(1, 2, 4\)'):
        micro(num_heads=(2, 4, 8)).load_state_dict(golden('swinv2_timm')['checkpoint'])
    with pytest.raises(ValueError, match=r'depths=\(2, 2, 2\)'):
        micro(depths=(2, 2, 4)).load_state_dict(golden('swinv2_timm')['checkpoint'])


# Writing

@pytest.mark.parametrize('to', ['timm', 'hf', 'microsoft'])
@pytest.mark.parametrize('name', ['swinv2_microsoft', 'swinv2_mmpretrain'])
def test_exported_keys_and_shapes_are_the_librarys(name, to):
    exported = convert(read_weights(golden(name)['checkpoint']), to, window=6)
    want = json.loads((GOLDEN / 'keys_v2.json').read_text())[to]
    assert {key: list(value.shape) for key, value in exported.items()} == want


def test_exported_buffers_are_microsofts_own():
    exported = convert(read_weights(golden('swinv2_microsoft')['checkpoint']), 'microsoft', window=6)
    theirs = golden('swinv2_microsoft')['checkpoint']['model']
    for key, value in exported.items():
        if key.endswith('relative_coords_table'):
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)
        elif not key.startswith('norm.'):  # the classifier's, which a backbone has not
            assert torch.equal(value, theirs[key]), key


def test_export_to_torchvision_gives_back_its_own_file():
    theirs = golden('swinv2_torchvision')['checkpoint']
    exported = convert(read_weights(theirs), 'torchvision')
    assert exported.keys() == {key for key in theirs if not key.startswith('head.')}
    for key, value in exported.items():
        if key.endswith('.attn.qkv.bias'):
            queries, keys, values = value.chunk(3)
            assert not keys.any(), 'which torchvision sets to zero whenever it uses it'
            assert torch.equal(torch.cat([queries, theirs[key].chunk(3)[1], values]), theirs[key]), key
        elif key.endswith('relative_coords_table'):
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)
        elif not key.startswith('norm.'):  # the classifier's, which a backbone has not
            assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize('to', EXPORTS)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_there_and_back(to, suffix, tmp_path):
    weights = read_weights(golden('swinv2_torchvision')['checkpoint'])
    save_weights(convert(weights, to), tmp_path / f'swin{suffix}', to)
    back = read_weights(load_checkpoint_file(tmp_path / f'swin{suffix}'))
    assert (back.format.name, back.format.version) == (to, 2)
    assert set(weights.state_dict) == {key for key in back.state_dict if not key.startswith('norm')}
    assert all(torch.equal(back.state_dict[key], value) for key, value in weights.state_dict.items())


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match='does not say by which window .* pretrained_window_sizes'):
        convert(read_weights(golden('swinv2_timm')['checkpoint']), 'microsoft')
    with pytest.raises(ValueError, match='does not say by which window'):
        convert(read_weights(golden('swinv2_timm')['checkpoint']), 'torchvision')
    with_keys = SwinPosTransformerV2(**MICRO, key_bias=True)
    with pytest.raises(ValueError, match="torchvision's Swin V2 has no bias of keys, these weights have one"):
        convert(read_weights(with_keys.state_dict()), 'torchvision')
    mixed = SwinPosTransformer(**MICRO, position='log_cpb')
    with pytest.raises(ValueError, match="timm's Swin has no such model: position='log_cpb', attention='dot'"):
        convert(read_weights(mixed.state_dict()), 'timm')


def test_the_tools(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')
    torch.save(golden('swinv2_microsoft')['checkpoint'], tmp_path / 'swin.pth')
    assert run('inspect_checkpoint', tmp_path / 'swin.pth') == 0
    out = capsys.readouterr().out
    assert "classifier, in the Swin authors' names" in out
    assert 'position learned for window │ 4 x 4, 4 x 4, 3 x 3' in out
    assert run('convert_swin', tmp_path / 'swin.pth', tmp_path / 'ours.pth') == 0
    assert "tensors in this project's names, window (4, 4)" in capsys.readouterr().out
    assert inspect_checkpoint(load_checkpoint_file(tmp_path / 'ours.pth')).weights.windows == [[4, 4], [4, 4], [3, 3]]
    saved = load_checkpoint_file(tmp_path / 'ours.pth')
    assert incompatibilities(saved, micro('swinv2_microsoft')) is None
    assert 'measures them by (6, 6)' in incompatibilities(saved, micro('swinv2_simmim'))


def test_the_papers_variants_are_named():
    with torch.device('meta'):
        state = SwinPosTransformerV2(depths=(2, 2, 18, 2)).state_dict()
    assert inspect_checkpoint(state).variant.name == 'SwinV2-S'


def test_features_without_the_position_network_differ(tmp_path):
    """So that the comparisons above would see a network that was lost."""
    model = load('swinv2_timm', 'load_state_dict', tmp_path)
    right = outputs(model)[2]
    for module in model.modules():
        if hasattr(module, 'cpb_mlp'):
            module.cpb_mlp[2].weight.data.zero_()
    assert outputs(model)[2].sub(right).abs().max() > 0.01
