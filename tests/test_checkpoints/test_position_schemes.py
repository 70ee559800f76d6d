"""Loading weights into a backbone of the same position scheme, or another."""
from __future__ import annotations

import io

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict

from swin_pos_det.checkpoints import EXPORTS, convert, load_checkpoint_file, read_weights, save_weights
from swin_pos_det.checkpoints.weights import POSITION, TABLE_WINDOWS
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from tests.models import MICRO, randomise

SMALL = dict(MICRO, num_heads=(2, 4, 4), drop_path_rate=0.)


def small(cls=SwinPosTransformer, **settings):
    model = cls(**dict(SMALL, **settings))
    randomise(model)
    return model.eval()


def through_a_file(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize('position', ['none', 'absolute', 'absolute+relative', 'relative_only', 'linear_cpb', 'log_cpb',
                                      'rope_axial', 'rope_mixed', 'peg', 'relative+rope_mixed'])
def test_there_and_back_is_exact(position):
    source, target = small(position=position), small(position=position)
    state = through_a_file(source)
    assert state._metadata[''][POSITION] == position
    target.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 50, 61)
    assert all(torch.equal(a, b) for a, b in zip(source(image), target(image)))
    report = target.load_report
    assert not (report.new or report.unused or report.resampled or report.notes)


def test_swin_v2_there_and_back():
    source, target = small(SwinPosTransformerV2), small(SwinPosTransformerV2)
    target.load_state_dict(through_a_file(source), strict=True)
    image = torch.randn(1, 3, 50, 61)
    assert all(torch.equal(a, b) for a, b in zip(source(image), target(image)))
    assert target.load_report.found.startswith('SwinPosTransformerV2: custom')


@pytest.mark.parametrize(('source', 'target', 'unused'), [
    ('relative', 'none', 'relative_position_bias_table'),
    ('relative', 'rope_axial', 'relative_position_bias_table'),
    ('log_cpb', 'none', 'cpb_mlp'),
    ('rope_mixed', 'rope_axial', 'rope_freqs'),
    ('relative+rope_mixed', 'relative', 'rope_freqs'),
    ('peg+relative', 'relative', 'peg'),
])
def test_what_another_scheme_learned_is_left_out_and_reported(source, target, unused):
    state = through_a_file(small(position=source))
    model = small(position=target)
    load_state_dict(model, state, strict=False)
    report = model.load_report
    assert report.unused and all(unused in name for name in report.unused)
    assert any(f"trained with '{source}', the model has '{target}'" in line for line in report.lines())
    assert torch.equal(model.patch_embed.projection.weight, state['patch_embed.projection.weight'])


@pytest.mark.parametrize(('source', 'target', 'message'), [
    ('relative', 'log_cpb', r"cpb_mlp.0.weight: they would stay random.* position='relative'"),
    ('log_cpb', 'relative', r"relative_position_bias_table: they would stay random.* position='log_cpb'"),
    ('none', 'rope_mixed', r"rope_freqs: they would stay random.* position='none'"),
    ('relative', 'peg', r'stages.0.peg.weight: they would stay random'),
    ('relative', 'absolute', r'absolute_pos_embed: they would stay random.* use_abs_pos_embed=False'),
    ('absolute', 'none', r'absolute_pos_embed of shape .* would be left out.* use_abs_pos_embed=True'),
])
def test_what_would_stay_random_raises(source, target, message):
    state, model = through_a_file(small(position=source)), small(position=target)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_state_dict(model, state, strict=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_two_versions_are_told_apart():
    first, second = small(), small(SwinPosTransformerV2, window_size=7)
    with pytest.raises(ValueError, match="a Swin V2, .* the model is a Swin V1: .*type='SwinPosTransformerV2'"):
        load_state_dict(small(), through_a_file(second), strict=False)
    with pytest.raises(ValueError, match="a Swin V1, .* the model is a Swin V2: .*type='SwinPosTransformer'"):
        load_state_dict(small(SwinPosTransformerV2), through_a_file(first), strict=False)


def test_what_is_between_the_versions_is_told_by_its_settings():
    mixed = small(attention='cosine', key_bias=False, position='log_cpb')
    with pytest.raises(ValueError, match="give the backbone attention='cosine', key_bias=False, position='log_cpb'"):
        load_state_dict(small(), through_a_file(mixed), strict=False)
    with pytest.raises(ValueError, match="give the backbone norm_order='pre'"):
        load_state_dict(small(SwinPosTransformerV2, window_size=7), through_a_file(mixed), strict=False)


def test_the_kind_of_continuous_bias_is_told_although_its_parameters_do_not():
    model = small(position='log_cpb')
    model.load_state_dict(through_a_file(small(position='linear_cpb')), strict=True)
    assert any("trained with 'linear_cpb', the model has 'log_cpb'" in line for line in model.load_report.lines())


@pytest.mark.parametrize('position', ['linear_cpb', 'log_cpb'])
def test_a_continuous_bias_is_measured_by_the_window_it_was_learned_for(position):
    source = small(position=position, window_size=4)
    state = through_a_file(source)
    assert state._metadata[''][TABLE_WINDOWS] == [[4, 4]] * 3
    with pytest.raises(ValueError, match=r'measured by a window of \(4, 4\), the model measures them by \(8, 8\): set '
                                         'pretrained_window_sizes'):
        small(position=position, window_size=8).load_state_dict(state)
    target = small(position=position, window_size=8, pretrained_window_sizes=4)
    target.load_state_dict(state, strict=True)
    source.set_window_size(8)
    image = torch.randn(1, 3, 50, 61)
    assert all(torch.equal(a, b) for a, b in zip(source(image), target(image)))
    # Without the note, as in files of other libraries, the config decides.
    del state._metadata
    small(position=position, window_size=8).load_state_dict(state, strict=True)


@pytest.mark.parametrize('position', ['relative_only', 'relative+rope_axial'])
def test_tables_of_other_schemes_are_resampled(position):
    source = small(position=position, window_size=5)
    target = small(position=position, window_size=(3, 8))
    target.load_state_dict(through_a_file(source), strict=True)
    assert set(target.load_report.resampled) == {name for name, _ in target.named_parameters() if 'table' in name}
    source.set_window_size((3, 8))
    image = torch.randn(1, 3, 50, 61)
    for got, want in zip(target(image), source(image)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('cls', 'position'), [
    *((SwinPosTransformer, position) for position in (
        'none', 'relative_only', 'rope_axial+relative', 'peg+relative', 'relative+rope_mixed', 'log_cpb')),
    (SwinPosTransformerV2, 'linear_cpb'), (SwinPosTransformerV2, 'log_cpb+rope_axial'),
    (SwinPosTransformerV2, 'relative')])
def test_what_other_libraries_do_not_have_is_not_exported(cls, position):
    weights = read_weights(small(cls, position=position).state_dict())
    for to in set(EXPORTS) - {'mmdet'}:
        with pytest.raises(ValueError, match='Swin has no such model: position=') as raised:
            convert(weights, to)
        assert repr(position) in str(raised.value)


@pytest.mark.parametrize('noted', [True, False])
@pytest.mark.parametrize(('cls', 'position'), [(SwinPosTransformer, 'relative'), (SwinPosTransformerV2, 'log_cpb')])
def test_what_they_have_is(cls, position, noted):
    state = small(cls, position=position).state_dict()
    weights = read_weights(state if noted else dict(state))
    assert all(convert(weights, to) for to in ('timm', 'hf'))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('position', ['linear_cpb', 'relative_only', 'relative+rope_mixed', 'absolute+relative'])
def test_a_converted_file_says_what_shapes_do_not_tell(tmp_path, position, suffix):
    source = small(position=position, **dict(pretrain_img_size=(64, 256)) if 'absolute' in position else {})
    weights = read_weights(source.state_dict())
    save_weights(convert(weights), tmp_path / f'swin{suffix}', 'mmdet', weights.windows, weights.grid, weights.position)
    found = read_weights(load_checkpoint_file(tmp_path / f'swin{suffix}'))
    assert found.position == position
    assert (found.grid and tuple(found.grid)) == ((16, 64) if 'absolute' in position else None)
    assert [tuple(window) for window in found.windows] == [(7, 7)] * 3
