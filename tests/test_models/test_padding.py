"""padding='mask': an image's features do not depend on what it is batched with: contract 6."""
from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from swin_pos_det.models import SwinPosTransformer, attach_valid_sizes, valid_sizes
from tests.models import MICRO, randomise

from ..dtypes import LOW

SIZES = [(61, 90), (37, 120), (90, 33), (4, 4), (96, 128)]


def batch_of(images, canvas=None):
    height = max(image.shape[1] for image in images) if canvas is None else canvas[0]
    width = max(image.shape[2] for image in images) if canvas is None else canvas[1]
    batch = torch.stack([F.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images])
    attach_valid_sizes(batch, [image.shape[1:] for image in images])
    return batch


def masking(**changes) -> SwinPosTransformer:
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., padding='mask', **changes))
    randomise(model)
    return model


@pytest.mark.parametrize('changes', [
    dict(), dict(window_size=4), dict(window_size=(3, 8), table_window_size=5), dict(patch_norm=False),
    dict(qkv_bias=False), dict(use_abs_pos_embed=True, pretrain_img_size=64), dict(strides=(4, 2, 1)),
], ids=str)
def test_features_are_the_same_alone_and_in_any_batch(changes):
    model = masking(**changes)
    images = [torch.randn(3, *size) for size in SIZES]
    alone = [model(image.unsqueeze(0)) for image in images]
    for order, canvas in (([0, 1, 2, 3, 4], None), ([4, 2, 0, 3, 1], (128, 160)), ([1], (64, 256))):
        outs = model(batch_of([images[i] for i in order], canvas))
        for position, i in enumerate(order):
            for got, want in zip(outs, alone[i]):
                height, width = want.shape[2:]
                torch.testing.assert_close(got[position, :, :height, :width], want[0], rtol=0, atol=1e-5)
                assert not got[position, :, height:].any() and not got[position, :, :, width:].any()


def test_mmdets_features_depend_on_the_batch():
    """mmdet's error: the same image, batch-padded, has other features, by as much as their size."""
    model = SwinTransformer(**dict(MICRO, drop_path_rate=0.))
    randomise(model)
    image = torch.randn(3, 61, 90)
    alone, padded = model(image.unsqueeze(0))[-1], model(batch_of([image], (96, 128)))[-1]
    height, width = alone.shape[2:]
    change = (padded[..., :height, :width] - alone).abs().mean() / alone.abs().mean()
    assert change > 0.05, 'mean change relative to the mean feature'


def test_gradients_are_the_same_alone_and_padded():
    model = masking()
    image = torch.randn(3, 61, 90)
    grads = []
    for batch in (batch_of([image]), batch_of([image], (96, 160))):
        model.zero_grad()
        sum((out**2).sum() for out in model(batch)).div(1000).backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    # The outputs' zeros outside the image add nothing to the loss.
    for name, want in grads[0].items():
        torch.testing.assert_close(grads[1][name], want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}')


def test_what_lies_in_the_padding_does_not_matter():
    model = masking()
    images = [torch.randn(3, *size) for size in SIZES]
    clean = batch_of(images)
    dirty = clean.clone()
    for i, (height, width) in enumerate(SIZES):
        dirty[i, :, height:] = float('inf')
        dirty[i, :, :, width:] = 1e9
    attach_valid_sizes(dirty, SIZES)
    assert all(torch.equal(a, b) for a, b in zip(model(clean), model(dirty)))


def test_windows_of_nothing_but_padding_are_finite():
    model = masking(window_size=2)
    batch = batch_of([torch.randn(3, 4, 4)], (64, 64))
    outs = model(batch)
    sum(out.square().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('dtype', LOW)
def test_hidden_stays_hidden_in_half_precision(dtype):
    model = masking()
    images = [torch.randn(3, *size) for size in SIZES]
    with torch.autocast('cpu', dtype=dtype):
        alone, outs = model(images[0].unsqueeze(0)), model(batch_of(images))
    for got, want in zip(outs, alone):
        got = got[:1, :, :want.shape[2], :want.shape[3]].float()
        assert (got - want.float()).abs().mean() < 0.02 * want.float().abs().mean()


def test_whole_images_need_no_masks_beyond_the_windows():
    """Images that fill the batch give what an unpadded batch gives, to the bit."""
    model = masking()
    batch = torch.randn(2, 3, 56, 84)
    want = model(batch)
    attach_valid_sizes(batch, [(56, 84)] * 2)
    assert all(torch.equal(a, b) for a, b in zip(model(batch), want))


def test_equal_to_attend_where_there_is_no_padding():
    model = masking(window_size=7, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1))
    attending = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., depths=(2, 2), num_heads=(2, 4), strides=(4, 2),
                                          out_indices=(0, 1)))
    attending.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 56, 112)  # 14 x 28 and 7 x 14 tokens
    assert all(torch.equal(a, b) for a, b in zip(model(image), attending(image)))


def test_unknown_sizes_warn_once():
    model = masking()
    with pytest.warns(UserWarning, match='SwinPosDataPreprocessor'):
        model(torch.randn(1, 3, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(torch.randn(2, 3, 32, 32))


def test_the_preprocessor_carries_sizes_to_the_backbone():
    preprocessor = MODELS.build(dict(type='SwinPosDataPreprocessor', mean=[0.] * 3, std=[1.] * 3, pad_size_divisor=32))
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in SIZES[:2]]
    samples = []
    for image in images:
        samples.append(DetDataSample(metainfo=dict(img_shape=tuple(image.shape[1:]))))
    batch = preprocessor(dict(inputs=images, data_samples=samples))['inputs']
    assert batch.shape == (2, 3, 64, 128)
    assert valid_sizes(batch) == SIZES[:2]
    model = masking()
    alone = model(images[1][None].float())
    for got, want in zip(model(batch), alone):
        torch.testing.assert_close(got[1:, :, :want.shape[2], :want.shape[3]], want, rtol=0, atol=1e-4)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r'valid sizes \[\(9, 8\)\] do not fit a batch of shape \(1, 3, 8, 8\)'):
        attach_valid_sizes(torch.zeros(1, 3, 8, 8), [(9, 8)])
