"""Any window, at any resolution, at run time: contract 5."""
from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage

from swin_pos_det.layers import WindowAttention, WindowRule, window_plan
from swin_pos_det.models import SwinPosTransformer
from tests import reference
from tests.models import MICRO, randomise


def micro(**changes) -> SwinPosTransformer:
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., **changes))
    randomise(model)
    return model


# Settings

@pytest.mark.parametrize(('given_size', 'want'), [
    (7, [(7, 7)] * 3),
    ((7, 14), [(7, 14)] * 3),
    ([7, (3, 5), 'global'], [(7, 7), (3, 5), 'global']),
    ('global', ['global'] * 3),
])
def test_forms_of_window_size(given_size, want):
    model = micro(window_size=given_size, table_window_size=7)
    assert model.window_size == want
    other = micro()
    other.set_window_size(given_size)
    assert other.window_size == want


def test_window_size_from_cfg_options():
    cfg = Config(dict(model=dict(backbone=dict(type='SwinPosTransformer', table_window_size=7, **MICRO))))
    for text, want in (('(7, 14)', [(7, 14)] * 3), ('[3, 5, 7]', [(3, 3), (5, 5), (7, 7)])):
        from mmengine.config import DictAction
        cfg.merge_from_dict({'model.backbone.window_size': DictAction._parse_iterable(text.replace(' ', ''))})
        backbone = {key: value for key, value in cfg.model.backbone.items() if key != 'type'}
        assert SwinPosTransformer(**backbone).window_size == want


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(window_size='whole'), "or 'global', got 'whole'"),
    (dict(window_size='global'), "stage 0 has window_size='global', which has no grid of its own"),
    (dict(window_policy='best'), "window_policy must be one of .* got 'best'"),
    (dict(window_policy='scale'), 'needs reference_size'),
    (dict(padding='zero'), "padding must be one of .* got 'zero'"),
])
def test_impossible_settings_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        micro(**changes)


def test_a_reference_size_without_effect_warns():
    with pytest.warns(UserWarning, match='reference_size=.* has no effect'):
        micro(reference_size=800)


def test_a_refused_window_changes_nothing():
    model = micro(window_size=[3, 4, 5])
    with pytest.raises(ValueError, match='at least 1'):
        model.set_window_size([7, 7, 0])
    assert model.window_size == [(3, 3), (4, 4), (5, 5)]


# Changing the window touches no parameter

def test_there_and_back_is_exact_and_touches_no_parameter():
    model = micro()
    image = torch.randn(2, 3, 61, 90)
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    first = model(image)
    model.set_window_size(12)
    other = model(image)
    model.set_window_size(7)
    again = model(image)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(first, other))
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(id(p) == before[name][0] and torch.equal(p, before[name][1]) for name, p in after.items())


def test_an_optimizer_and_an_ema_made_before_stay_valid():
    model = micro()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ema = ExponentialMovingAverage(model, momentum=0.5)
    for window in (7, 5, (3, 9)):
        model.set_window_size(window)
        optimizer.zero_grad()
        sum(out.square().mean() for out in model(torch.randn(1, 3, 60, 60))).backward()
        before = copy.deepcopy(model.state_dict())
        optimizer.step()
        ema.update_parameters(model)
        assert all(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, value in ema.module.state_dict().items():
        assert value.shape == model.state_dict()[name].shape
        assert not torch.equal(value, model.state_dict()[name])


def test_a_checkpoint_runs_at_another_window_as_if_set_at_run_time():
    trained = micro()
    direct = micro(window_size=12, table_window_size=7)
    direct.load_state_dict(trained.state_dict(), strict=True)
    trained.set_window_size(12)
    image = torch.randn(1, 3, 70, 50)
    assert all(torch.equal(a, b) for a, b in zip(trained(image), direct(image)))


# Policies

def test_fit_equals_the_windows_that_it_chose():
    model = micro(window_policy='fit')
    image = torch.randn(1, 3, 100, 180)  # 25 x 45, 13 x 23, 7 x 12 tokens
    outs = model(image)
    explicit = micro(window_size=[(7, 8), (7, 8), (7, 6)], table_window_size=7)
    explicit.load_state_dict(model.state_dict())
    chosen = [stage.window_rule.window(tuple(out.shape[2:])) for stage, out in zip(model.stages, outs)]
    assert chosen == explicit.window_size
    # The last stage is one window down, which 'fit' does not shift: so only the first two are the same.
    for got, want in zip(outs[:2], explicit(image)[:2]):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_global_is_plain_attention_over_the_map():
    model = micro(window_size='global', table_window_size=7, out_indices=(0, ))
    image = torch.randn(2, 3, 20, 36)
    x, size = model.patch_embed(image)
    for block in model.stages[0].blocks:
        y = block.norm1(x)
        msa = block.attn.w_msa
        table = reference.resized_table(msa.relative_position_bias_table, (7, 7), size)
        q, k, v = msa.qkv(y).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(2, 3) * 8**-.5 + reference.bias_of_window(table, size)
        x = x + msa.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = block.ffn(block.norm2(x), identity=x)
    want = model.norm0(x).unflatten(1, size).permute(0, 3, 1, 2)
    torch.testing.assert_close(model(image)[0], want, rtol=0, atol=1e-5)


def test_scale_follows_the_image():
    model = micro(window_policy='scale', reference_size=(64, 96))
    image = torch.randn(1, 3, 128, 192)
    explicit = micro(window_size=14, table_window_size=7, out_indices=(0, ))
    explicit.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(image)[0], explicit(image)[0], rtol=0, atol=1e-5)


# Every size, every window, against the reference

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 9), st.integers(1, 9), st.integers(1, 2),
       st.sampled_from(['fixed', 'fit', 'global']), st.booleans())
def test_attention_equals_the_reference_at_any_size(height, width, rows, cols, batch, policy, shifted):
    size = (height, width)
    rule = WindowRule('global') if policy == 'global' else WindowRule((rows, cols), policy)
    window = rule.window(size)
    shift = rule.shift(size, window) if shifted else (0, 0)
    attention = WindowAttention(4, 2, (3, 3))
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(batch, height * width, 4, requires_grad=True)
    got = attention(x, window_plan(batch, size, window, shift, x.device))
    # The reference loops over pairs of tokens: keep that to what is quick.
    if window[0] * window[1] <= 49:
        want = reference.attend_in_windows(x, size, window, shift, attention.relative_position_bias_table, (3, 3),
                                           (attention.qkv.weight, attention.qkv.bias),
                                           (attention.proj.weight, attention.proj.bias))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0]
                                     for y in (got, want)), rtol=1e-4, atol=1e-4)
    assert got.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 32), st.integers(1, 32),
       st.sampled_from(['fixed', 'fit', 'scale']), st.sampled_from(['attend', 'mask']),
       st.sampled_from([(2, ), (1, 2), (2, 1, 1), (1, 1, 1, 2)]))
def test_any_image_any_window_any_layout(height, width, rows, cols, policy, padding, depths):
    stages = len(depths)
    model = SwinPosTransformer(
        embed_dims=4, depths=depths, num_heads=(1, 2, 2, 4)[:stages], strides=(4, 2, 2, 2)[:stages],
        out_indices=range(stages), window_size=(rows, cols), table_window_size=3, window_policy=policy,
        reference_size=200 if policy == 'scale' else None, padding=padding, drop_path_rate=0.)
    outs = model(torch.randn(1, 3, height, width))
    size = -(-height // 4), -(-width // 4)
    for stage, out in enumerate(outs):
        assert out.shape == (1, 4 * 2**stage, *size) and out.isfinite().all()
        size = -(-size[0] // 2), -(-size[1] // 2)
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
