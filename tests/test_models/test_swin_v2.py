"""Swin V2 against the slow reference, its names and sizes, and that it trains in half precision."""
from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS

from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from tests import reference_position
from tests.dtypes import LOW
from tests.models import VARIANTS, randomise

SMALL = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), drop_path_rate=0.)


def randomised(**settings) -> SwinPosTransformerV2:
    model = SwinPosTransformerV2(**dict(SMALL, **settings))
    randomise(model)
    for name, parameter in model.named_parameters():
        if name.endswith('logit_scale'):
            torch.nn.init.normal_(parameter, mean=2.)
    return model


@pytest.mark.parametrize(('settings', 'windows', 'learned', 'size'), [
    (dict(window_size=3), [(3, 3)] * 2, [(3, 3)] * 2, (24, 24)),
    (dict(window_size=[(2, 4), 3], pretrained_window_sizes=[2, 0]), [(2, 4), (3, 3)], [(2, 2), (3, 3)], (29, 22)),
])
def test_features_and_gradients_equal_the_reference(settings, windows, learned, size):
    model = randomised(**settings)
    image = torch.randn(2, 3, *size, requires_grad=True)
    inputs = dict(model.named_parameters(), image=image)
    inputs = {name: value for name, value in inputs.items() if value.requires_grad}
    got = model(image)
    want = reference_position.swin_v2(dict(model.named_parameters()), image, (2, 2), (1, 2), windows, learned)
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weights = [torch.randn_like(out) for out in want]
    got_grads, want_grads = (torch.autograd.grad(sum((out * w).sum() for out, w in zip(outs, weights)), inputs.values())
                             for outs in (got, want))
    for name, ours, theirs in zip(inputs, got_grads, want_grads):
        error = (ours - theirs).norm()
        assert error <= 1e-5 * theirs.norm().clamp(min=0.01), f'{name}: error {error:.2e} of {theirs.norm():.2e}'


def test_it_is_the_backbone_with_other_settings():
    second = MODELS.build(dict(type='mmdet.SwinPosTransformerV2', **SMALL))
    assert isinstance(second, SwinPosTransformer) and second.window_size == [(8, 8)] * 2
    composed = SwinPosTransformer(**SMALL, window_size=8, position='log_cpb', attention='cosine', key_bias=False,
                                  norm_order='res-post')
    composed.load_state_dict(second.state_dict(), strict=True)
    image = torch.randn(1, 3, 40, 52)
    assert all(torch.equal(a, b) for a, b in zip(second(image), composed(image)))


# Millions of parameters of Microsoft's models, of which the classifier and the norm before it are no part of a backbone
# (README of their repository).
PUBLISHED = {'T': 28, 'S': 50, 'B': 88, 'L': 197}


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants_have_the_published_size(variant):
    with torch.device('meta'):
        model = SwinPosTransformerV2(**VARIANTS[variant])
    parameters = {name: p for name, p in model.named_parameters() if not name.startswith('norm')}
    numbers = sum(p.numel() for p in parameters.values())
    channels = 8 * VARIANTS[variant]['embed_dims']
    classifier = 1000 * (channels + 1) + 2 * channels
    assert (numbers + classifier) / 1e6 == pytest.approx(PUBLISHED[variant], abs=0.5)
    first = 'stages.0.blocks.0.attn.w_msa.'
    dims, heads = VARIANTS[variant]['embed_dims'], VARIANTS[variant]['num_heads'][0]
    assert {name[len(first):]: tuple(p.shape) for name, p in parameters.items() if name.startswith(first)} == {
        'logit_scale': (heads, 1, 1), 'q_bias': (dims, ), 'v_bias': (dims, ), 'cpb_mlp.0.weight': (512, 2),
        'cpb_mlp.0.bias': (512, ), 'cpb_mlp.2.weight': (heads, 512), 'qkv.weight': (3 * dims, dims),
        'proj.weight': (dims, dims), 'proj.bias': (dims, )}
    assert parameters['stages.0.downsample.norm.weight'].shape == (2 * dims, )


@pytest.mark.parametrize('dtype', LOW)
def test_training_in_half_precision_from_scratch_stays_finite(dtype):
    """With images that are black in part, whose tokens are all alike, and scales that have run away."""
    torch.manual_seed(0)
    model = SwinPosTransformerV2(**dict(SMALL, padding='mask'))
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith('logit_scale'):
            torch.nn.init.constant_(parameter, 20.)
        elif name.endswith('qkv.weight'):
            parameter.data.mul_(1e4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    from .test_padding import batch_of
    images = batch_of([torch.randn(3, 40, 52), torch.zeros(3, 24, 30)], (64, 64))
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype=dtype):
            outs = model(images)
            loss = sum((out.float() - 1).square().mean() for out in outs)
        (loss * 128).backward()  # as a gradient scaler does
        assert all(out.isfinite().all() for out in outs)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimizer.step()


def test_settings_are_by_name_and_checked():
    with pytest.raises(TypeError):
        SwinPosTransformerV2(224)
    with pytest.raises(TypeError, match='windows'):
        SwinPosTransformerV2(windows=8)
