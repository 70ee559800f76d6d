"""Equal to mmdet's SwinTransformer: the same weights give the same features and the same gradients."""
from __future__ import annotations

import copy
from typing import Dict, Tuple

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import Tensor, nn

from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO, VARIANTS, pair, randomise

SIZES = [(224, 224), (256, 320), (250, 333), (37, 53)]


def gradients(model: nn.Module, image: Tensor) -> Tuple[Tuple[Tensor, ...], Dict[str, Tensor]]:
    """Return Outputs, and the gradients of a weighted sum of them with respect to the image and every parameter."""
    image = image.clone().requires_grad_()
    outs = model(image)
    generator = torch.Generator().manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outs)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return tuple(outs), dict(grads, image=image.grad)


def assert_equal(theirs: nn.Module, ours: nn.Module, image: Tensor) -> None:
    their_outs, their_grads = gradients(theirs, image)
    our_outs, our_grads = gradients(ours, image)
    assert len(our_outs) == len(their_outs)
    for got, want in zip(our_outs, their_outs):
        assert got.shape == want.shape and got.is_contiguous()
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert our_grads.keys() == their_grads.keys()
    for name, want in their_grads.items():
        # A sum over up to a million outputs: so the error is held against the gradient's own size.
        error, size = (our_grads[name] - want).norm(), want.norm()
        # (With windows of one token, the tables' gradients are zero.)
        assert error <= 1e-5 * size.clamp(min=0.01), f'{name}: error {error:.2e} of {size:.2e}'


@pytest.mark.parametrize('size', SIZES)
def test_swin_t_equals_mmdets(size):
    assert_equal(*pair(), torch.randn(1, 3, *size))


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('batch', [1, 3])
def test_batches(batch, size):
    assert_equal(*pair(**MICRO), torch.randn(batch, 3, *size))


def test_coco_size():
    theirs, ours = pair()
    image = torch.randn(1, 3, 800, 1344)
    with torch.no_grad():
        for got, want in zip(ours(image), theirs(image)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('settings', [
    dict(out_indices=(0, )),
    dict(out_indices=(1, 2)),
    dict(out_indices=(2, 0)),
    dict(patch_norm=False),
    dict(qkv_bias=False),
    dict(qk_scale=0.3),
    dict(mlp_ratio=2),
    dict(window_size=4),
    dict(window_size=1),
    dict(act_cfg=dict(type='ReLU')),
    dict(patch_size=2, strides=(2, 2, 2)),
    dict(strides=(4, 2, 1)),
    dict(in_channels=1),
    dict(frozen_stages=2),
], ids=str)
def test_settings(settings):
    theirs, ours = pair(**dict(MICRO, **settings))
    theirs.train()  # mmdet freezes here, not at construction
    assert_equal(theirs, ours.train(), torch.randn(2, settings.get('in_channels', 3), 61, 90))


def test_gradient_checkpointing_changes_nothing():
    theirs, plain = pair(**MICRO)
    checkpointed = SwinPosTransformer(**MICRO, drop_path_rate=0., with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    assert all(block.with_cp for stage in checkpointed.stages for block in stage.blocks)
    assert_equal(theirs, checkpointed, torch.randn(2, 3, 61, 90))


def test_stochastic_depth_draws_the_same_numbers():
    # Dropout cannot: it draws per element, and our tensors hold no padding.
    settings = dict(MICRO, drop_path_rate=.3)
    theirs, ours = SwinTransformer(**settings), SwinPosTransformer(**settings)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(4, 3, 56, 56)
    torch.manual_seed(5)
    want = theirs(image)
    torch.manual_seed(5)
    for got, expected in zip(ours(image), want):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('variant', VARIANTS)
def test_variants_have_mmdets_parameters(variant):
    theirs = SwinTransformer(**VARIANTS[variant])
    shapes = {name: p.shape for name, p in theirs.named_parameters()}
    del theirs
    ours = SwinPosTransformer(**VARIANTS[variant])
    assert {name: p.shape for name, p in ours.named_parameters()} == shapes
    assert set(ours.state_dict()) == set(shapes), 'only parameters belong into the state dict'


def test_weights_go_back_to_mmdet():
    theirs, ours = pair(**MICRO)
    randomise(ours)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert unexpected == [] and all(key.endswith('relative_position_index') for key in missing)
    assert_equal(theirs, ours, torch.randn(1, 3, 64, 64))


def test_absolute_position_at_its_own_size():
    settings = dict(MICRO, use_abs_pos_embed=True, pretrain_img_size=(64, 96))
    theirs, ours = pair(**settings)
    assert_equal(theirs, ours, torch.randn(2, 3, 64, 96))


def test_a_copy_is_independent_and_equal():
    _, ours = pair(**MICRO)
    clone = copy.deepcopy(ours)
    image = torch.randn(1, 3, 40, 40)
    assert all(torch.equal(a, b) for a, b in zip(ours(image), clone(image)))
    nn.init.zeros_(clone.norm0.weight)
    assert not torch.equal(ours(image)[0], clone(image)[0])


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_a_hook_on_the_projection_acts_on_padding_too(mode):
    theirs, ours = pair(**MICRO)
    for model in (theirs, ours):
        model.train(mode == 'train')
        model.stages[0].blocks[0].attn.w_msa.qkv.register_forward_hook(lambda module, inputs, output: output + 1)
    assert_equal(theirs, ours, torch.randn(2, 3, 50, 70))
