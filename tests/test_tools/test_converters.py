"""The tools on checkpoints: inspect, convert, export."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from swin_pos_det.checkpoints import inspect_checkpoint, load_checkpoint_file, read_weights
from swin_pos_det.layers import resample_table
from swin_pos_det.models import SwinPosTransformer
from tests.test_checkpoints.test_formats import micro
from tests.test_tools.conftest import ROOT, load_tool

GOLDEN = Path(__file__).parents[1] / 'golden'
TINY = ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py'


@pytest.fixture
def timm_file(tmp_path):
    torch.save(torch.load(GOLDEN / 'swin_timm.pth', weights_only=True)['checkpoint'], tmp_path / 'swin.pth')
    return str(tmp_path / 'swin.pth')


def run(name, *argv):
    tool = load_tool(f'model_converters/{name}.py')
    runner = getattr(tool, 'convert_swin', tool)
    return runner.run_cli(runner.run, tool.get_parser(), [str(argument) for argument in argv])


def test_inspect_tells_what_it_is(timm_file, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')
    assert run('inspect_checkpoint', timm_file) == 0
    rows = [[cell.strip() for cell in line.split('│')[1:3]] for line in capsys.readouterr().out.splitlines()
            if line.startswith('│')]
    parameters = sum(parameter.numel() for parameter in micro().parameters()) - 2 * (8 + 16 + 32)  # the output norms
    assert dict(rows) == {
        'weights': "classifier, in timm's names", 'window': '7 x 7', 'patch': '4 x 4', 'image channels': '3',
        'variant': 'custom (embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 4))', 'absolute position': 'none',
        'output norms': 'none', 'classes': '5', 'parameters': f'{parameters:,} in the backbone'}


@pytest.mark.parametrize(('settings', 'name'), [
    (dict(), 'Swin-T'), (dict(depths=(2, 2, 18, 2)), 'Swin-S'),
    (dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)), 'Swin-B'),
    (dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)), 'Swin-L')])
def test_the_papers_variants(settings, name):
    with torch.device('meta'):
        model = SwinPosTransformer(**settings, window_size=12, use_abs_pos_embed=True, pretrain_img_size=384)
        state = model.state_dict()
    detector = {f'backbone.{key}': value for key, value in state.items()}
    detector['roi_head.bbox_head.fc_cls.weight'] = torch.zeros(81, 4)
    found = inspect_checkpoint(dict(state_dict=detector, meta={}))
    assert (found.variant.name, found.kind, found.classes) == (name, 'detector', 80)
    assert set(found.variant.windows) == {(12, 12)} and found.variant.image_size == (384, 384)


def test_inspect_says_whether_it_fits_a_config(timm_file, capsys, tmp_path):
    assert run('inspect_checkpoint', timm_file, '--config', TINY) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and 'the model is a Swin-T' in error and 'embed_dims=8' in error
    config = tmp_path / 'micro.py'
    config.write_text("model = dict(backbone=dict(type='SwinPosTransformer', embed_dims=8, depths=(2, 2, 2), "
                      'mlp_ratio=2, num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1, 2), window_size=12))')
    assert run('inspect_checkpoint', timm_file, '--config', config) == 0
    assert 'resampled 6' in capsys.readouterr().out
    assert run('inspect_checkpoint', timm_file, '--config', config, '--details') == 0
    assert 'new        norm0.weight' in capsys.readouterr().out


def test_inspect_fits_a_swin_v2_too(capsys, tmp_path):
    config = tmp_path / 'micro.py'
    config.write_text("model = dict(backbone=dict(type='SwinPosTransformerV2', embed_dims=8, depths=(2, 2, 2), "
                      'mlp_ratio=2, num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(0, 1, 2)))')
    assert run('inspect_checkpoint', GOLDEN / 'swinv2_timm.pth', '--config', config) == 0
    assert 'SwinPosTransformerV2: ' in capsys.readouterr().out
    config.write_text("model = dict(backbone=dict(type='ResNet', depth=50))")
    assert run('inspect_checkpoint', GOLDEN / 'swinv2_timm.pth', '--config', config) == 1
    assert 'is a ResNet, not a SwinPosTransformer' in capsys.readouterr().err


def test_inspect_names_what_is_no_swin(tmp_path, capsys):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    assert run('inspect_checkpoint', tmp_path / 'resnet.pth') == 1
    assert "no Swin backbone is among the 1 keys, which are, for instance, ['conv1.weight']" in capsys.readouterr().err


@pytest.mark.parametrize(('tool', 'arguments', 'format_name', 'window'), [
    ('convert_swin', [], 'mmdet', (7, 7)), ('convert_swin', ['--window', '12'], 'mmdet', (12, 12)),
    ('convert_swin', ['--window', '7,14', '--resampling', 'geometric'], 'mmdet', (7, 14)),
    ('convert_swin', ['--to', 'hf'], 'hf', (7, 7)),
    ('convert_swin', ['--to', 'timm', '--window', '5'], 'timm', (5, 5))])
def test_convert_and_export(timm_file, tmp_path, capsys, tool, arguments, format_name, window):
    out = tmp_path / 'out.pth'
    assert run(tool, timm_file, out, *arguments) == 0
    assert f'window {window}' in capsys.readouterr().out
    found = inspect_checkpoint(load_checkpoint_file(out))
    assert found.weights.format.name == format_name
    assert set(found.variant.windows) == {window}
    mode = 'geometric' if 'geometric' in arguments else 'bicubic'
    before = read_weights(load_checkpoint_file(timm_file)).state_dict
    after = {key: value for key, value in found.weights.state_dict.items() if not key.startswith('norm')}
    assert set(after) == set(before)
    for name, value in before.items():
        want = resample_table(value, (7, 7), window, mode) if name.endswith('table') else value
        assert torch.equal(after[name], want), name


def test_convert_keeps_the_position_scheme_and_the_grid(tmp_path):
    settings = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
                    position='absolute+linear_cpb', pretrain_img_size=(64, 256))
    torch.save(dict(state_dict=SwinPosTransformer(**settings).state_dict()), tmp_path / 'in.pth')
    assert run('convert_swin', tmp_path / 'in.pth', tmp_path / 'out.safetensors') == 0
    model = SwinPosTransformer(**dict(settings, position='absolute+log_cpb', pretrain_img_size=128))
    model.load_state_dict(load_checkpoint_file(tmp_path / 'out.safetensors'))
    lines = model.load_report.lines()
    assert 'resampled 1: absolute position embedding from (16, 64) to (32, 32)' in lines
    assert any("trained with 'absolute+linear_cpb', the model has 'absolute+log_cpb'" in line for line in lines)


def test_a_detector_is_not_written_over_by_its_backbone(tmp_path, capsys):
    path = tmp_path / 'detector.pth'
    backbone = {f'backbone.{name}': value for name, value in micro().state_dict().items()}
    torch.save({'state_dict': {**backbone, 'neck.weight': torch.zeros(2)}}, path)
    before = path.read_bytes()
    tool = load_tool('model_converters/convert_swin.py')
    assert tool.run_cli(tool.run, tool.get_parser(), [str(path), str(path)]) == 1
    assert 'is the input, which would keep only the backbone' in capsys.readouterr().err
    assert path.read_bytes() == before
    assert tool.run_cli(tool.run, tool.get_parser(), [str(path), str(tmp_path / 'backbone.pth')]) == 0
    assert '1 others' in capsys.readouterr().out


def test_the_window_is_checked_first(timm_file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run('convert_swin', timm_file, tmp_path / 'out.pth', '--window', '0')
    assert "'0' is no window" in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no file that is always full')
def test_a_full_disk_is_said(timm_file, tmp_path, capsys):
    for suffix in ('.pth', '.safetensors'):
        (tmp_path / f'full{suffix}').symlink_to('/dev/full')
        assert run('convert_swin', timm_file, tmp_path / f'full{suffix}') == 1
        assert f'full{suffix} (No space left on device)' in capsys.readouterr().err


@pytest.mark.parametrize('value', [torch.ones(169, 1).to_sparse(), torch.full((169, 1), float('nan')),
                                   np.ones((169, 1)), torch.ones(169, 1, dtype=torch.int8)])
def test_weights_that_are_no_numbers_are_not_converted(timm_file, tmp_path, capsys, value):
    weights = load_checkpoint_file(timm_file)
    key = next(key for key in weights if key.endswith('relative_position_bias_table'))
    torch.save({**weights, key: value}, tmp_path / 'in.pth')
    assert run('convert_swin', tmp_path / 'in.pth', tmp_path / 'out.pth') == 1
    assert 'relative_position_bias_table: the checkpoint has ' in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()
