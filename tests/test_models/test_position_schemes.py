"""Every position scheme in the whole backbone: windows, padding, freezing, checkpointing, precision, compiling."""
from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from swin_pos_det.layers import POSITIONS
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO, randomise

from ..dtypes import LOW
from .test_padding import batch_of

SECOND = dict(attention='cosine', key_bias=False, norm_order='res-post')
# Every scheme, some joined, and each part of Swin V2 at least once.
SETTINGS = {
    'none': dict(position='none'),
    'absolute': dict(position='absolute', pretrain_img_size=64),
    'absolute+relative': dict(position='absolute+relative', pretrain_img_size=64, norm_order='res-post'),
    'relative_only': dict(position='relative_only'),
    'linear_cpb': dict(position='linear_cpb'),
    'log_cpb': dict(position='log_cpb', **SECOND),
    'rope_axial': dict(position='rope_axial', attention='cosine'),
    'rope_mixed': dict(position='rope_mixed', key_bias=False),
    'peg+relative': dict(position='peg+relative'),
}
all_settings = pytest.mark.parametrize('settings', SETTINGS.values(), ids=list(SETTINGS))


def micro(**settings: Any) -> SwinPosTransformer:
    model = SwinPosTransformer(**dict(MICRO, num_heads=(2, 4, 4), drop_path_rate=0., window_size=4, **settings))
    randomise(model)
    return model


def test_every_scheme_is_tested():
    assert {name for key in SETTINGS for name in key.split('+')} == set(POSITIONS)


@all_settings
@pytest.mark.parametrize('windows', [
    dict(window_policy='fit'), dict(window_policy='scale', reference_size=120), dict(padding='mask', with_cp=True),
], ids=str)
def test_every_parameter_learns_under_every_policy(settings, windows):
    """DDP needs this when it does not search for unused parameters."""
    model = micro(**settings, **windows, frozen_stages=1, out_indices=(1, 2))
    for size in ((61, 90), (40, 40)):
        model.zero_grad()
        outs = model(batch_of([torch.randn(3, *size), torch.randn(3, 37, 33)]))
        sum(out.square().mean() for out in outs).backward()
        assert all(out.isfinite().all() for out in outs)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
                # Without the appearance term queries and keys do not matter; what they share with values does.
                assert (parameter.grad != 0).any(), name
            else:
                assert name.startswith(('patch_embed', 'stages.0.', 'absolute', 'stages.2.downsample'))


@all_settings
def test_features_are_the_same_alone_and_in_any_batch(settings):
    model = micro(padding='mask', **settings)
    images = [torch.randn(3, *size) for size in ((61, 90), (37, 120), (4, 4))]
    outs = model(batch_of(images, (96, 128)))
    for i, image in enumerate(images):
        for got, want in zip(outs, model(batch_of([image]))):
            height, width = want.shape[2:]
            torch.testing.assert_close(got[i, :, :height, :width], want[0], rtol=0, atol=1e-5)
            assert not got[i, :, height:].any() and not got[i, :, :, width:].any()


@all_settings
def test_windows_change_at_run_time_and_back(settings):
    model = micro(**settings)
    image = torch.randn(1, 3, 61, 90)
    first, before = model(image), copy.deepcopy(model.state_dict())
    for window in ((3, 6), 9, ['global', 5, 2]):
        model.set_window_size(window)
        other = model(image)
        assert not torch.allclose(first[0], other[0], atol=1e-3)
    model.set_window_size(4)
    assert all(torch.equal(a, b) for a, b in zip(first, model(image)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@all_settings
def test_gradient_checkpointing_changes_nothing(settings):
    plain, checkpointed = micro(**settings), micro(**settings, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    image, grads = torch.randn(1, 3, 50, 70), []
    for model in (plain, checkpointed):
        sum(out.square().mean() for out in model(image)).backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for first, second in zip(*grads):
        torch.testing.assert_close(first, second)


@all_settings
@pytest.mark.parametrize('dtype', LOW)
def test_autocast_is_finite_and_close(settings, dtype):
    model = micro(**settings)
    image = torch.randn(2, 3, 61, 90)
    with torch.no_grad():
        exact = model(image)
    with torch.autocast('cpu', dtype=dtype):
        outs = model(image)
        loss = sum(out.float().square().mean() for out in outs)
    loss.backward()
    for out, want in zip(outs, exact):
        assert (out.float() - want).abs().mean() < 0.05 * want.abs().mean()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# The meaning of the settings

def test_absolute_is_the_embedding_alone():
    model = micro(position='absolute', pretrain_img_size=64)
    plain = micro(position='none')
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != 'absolute_pos_embed'})
    image = torch.randn(1, 3, 40, 72)
    tokens, size = plain.patch_embed(image)
    grid = model.absolute_pos_embed.detach().view(1, 16, 16, -1).permute(0, 3, 1, 2)
    added = F.interpolate(grid, size=size, mode='bicubic', align_corners=False).flatten(2).transpose(1, 2)
    plain.patch_embed.forward = lambda _: (tokens + added, size)
    for got, want in zip(model(image), plain(image)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_absolute_and_relative_by_either_name():
    joined = micro(position='absolute+relative', pretrain_img_size=64)
    flag = micro(use_abs_pos_embed=True, pretrain_img_size=64)
    flag.load_state_dict(joined.state_dict(), strict=True)
    image = torch.randn(1, 3, 50, 70)
    assert all(torch.equal(a, b) for a, b in zip(joined(image), flag(image)))


def test_peg_adds_a_convolution_after_the_first_block():
    model = micro(position='peg', out_indices=(0, ))
    plain = micro(position='none', out_indices=(0, ))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if '.peg.' not in k})
    assert {k for k in model.state_dict() if 'peg' in k} >= {'stages.0.peg.weight', 'stages.0.peg.bias'}
    image = torch.randn(2, 3, 37, 50)
    stage = model.stages[0]

    def with_convolution(block, args, x):
        maps = x.transpose(1, 2).unflatten(2, (10, 13))
        weight, rows = stage.peg.weight[:, 0], F.pad(maps, (1, 1, 1, 1))
        total = sum(weight[:, i, j].view(-1, 1, 1) * rows[..., i:i + 10, j:j + 13] for i in range(3) for j in range(3))
        return x + (total + stage.peg.bias.view(-1, 1, 1)).flatten(2).transpose(1, 2)

    plain.stages[0].blocks[0].register_forward_hook(with_convolution)
    for got, want in zip(model(image), plain(image)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_pretrained_window_sizes_are_the_windows_of_the_tables():
    model = micro(position='log_cpb', pretrained_window_sizes=[8, (8, 6), 0])
    assert [stage.blocks[0].attn.w_msa.table_window_size for stage in model.stages] == [(8, 8), (8, 6), (4, 4)]
    same = micro(position='log_cpb', table_window_size=[8, (8, 6), 4])
    same.load_state_dict(model.state_dict(), strict=True)
    image = torch.randn(1, 3, 50, 50)
    assert all(torch.equal(a, b) for a, b in zip(model(image), same(image)))
    one = SwinPosTransformer(**dict(MICRO, window_size=[4, 4, 'global']),
                             position=dict(type='log_cpb', pretrained_window_size=8))
    assert {stage.blocks[0].attn.w_msa.table_window_size for stage in one.stages} == {(8, 8)}


def test_from_scratch_draws_what_schemes_have():
    torch.manual_seed(0)
    model = SwinPosTransformer(**MICRO, position='log_cpb+peg', norm_order='res-post', attention='cosine')
    model.init_weights()
    msa = model.stages[1].blocks[0].attn.w_msa
    assert 0.015 < msa.cpb_mlp[0].weight.std() < 0.025 and not msa.cpb_mlp[0].bias.any()
    assert (msa.logit_scale.exp() - 10).abs().max() < 1e-5
    assert not model.stages[0].blocks[1].norm1.weight.any(), 'at first a block adds nothing'
    assert (model.norm0.weight == 1).all() and (model.stages[0].downsample.norm.weight == 1).all()
    mixed = SwinPosTransformer(**dict(MICRO, num_heads=(2, 4, 4)), position='rope_mixed')
    before = mixed.stages[0].blocks[0].attn.w_msa.rope_freqs.detach().clone()
    mixed.init_weights()
    assert not torch.equal(mixed.stages[0].blocks[0].attn.w_msa.rope_freqs, before)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(position='none', table_window_size=7), "table_window_size=7 has no effect with position='none'"),
    (dict(position='rope_axial', resampling='nearest'), "resampling='nearest' has no effect"),
    (dict(position='relative_only', qk_scale=0.5), "qk_scale=0.5 has no effect with position='relative_only'"),
    (dict(position=dict(type='log_cpb', pretrained_window_size=8), pretrained_window_sizes=8),
     "pretrained_window_sizes=8 has no effect with position='log_cpb'"),
])
def test_settings_without_effect_warn(settings, message):
    with pytest.warns(UserWarning, match=message):
        micro(**settings)


def test_nothing_warns_without_reason():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for settings in SETTINGS.values():
            micro(**settings)
        micro(position='log_cpb', pretrained_window_sizes=8)


@pytest.mark.parametrize(('settings', 'error', 'message'), [
    (dict(position='alibi'), ValueError, r"position must be one of \['absolute', .* got 'alibi'"),
    (dict(position=7), TypeError, "position takes a name .* got 7"),
    (dict(attention='sine'), ValueError, "attention must be one of .* got 'sine'"),
    (dict(norm_order='post'), ValueError, "norm_order must be one of .* got 'post'"),
    (dict(attention='cosine', qk_scale=0.3), ValueError, 'remove qk_scale=0.3'),
    (dict(table_window_size=7, pretrained_window_sizes=7), ValueError, 'two names of one setting'),
    (dict(pretrained_window_sizes=[7, 7]), ValueError, 'pretrained_window_sizes as a list needs one entry for each'),
    (dict(pretrained_window_sizes=-1), ValueError, 'pretrained_window_sizes must be at least 1 .* got -1'),
    (dict(position='rope_axial', embed_dims=12), ValueError, 'multiple of 4 channels, got 6'),
    (dict(window_size='global', position='log_cpb'), ValueError, 'has no grid of its own'),
])
def test_impossible_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        SwinPosTransformer(**dict(MICRO, **settings))


def test_a_global_window_needs_no_table_where_there_is_none():
    model = micro(**dict(position='rope_mixed'), out_indices=(0, ))
    whole = SwinPosTransformer(**dict(MICRO, num_heads=(2, 4, 4), window_size='global', out_indices=(0, )),
                               position='rope_mixed')
    whole.load_state_dict(model.state_dict(), strict=True)
    model.set_window_size('global')
    image = torch.randn(1, 3, 36, 20)
    assert all(torch.equal(a, b) for a, b in zip(model.eval()(image), whole.eval()(image)))
