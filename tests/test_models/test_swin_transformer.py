"""What is new in SwinPosTransformer, and what mmdet's gets wrong."""
from __future__ import annotations

import io
import os
import warnings

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch.nn.parallel import DistributedDataParallel

from swin_pos_det.layers import resample_table
from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO, randomise

from ..dtypes import LOW


def micro(**settings) -> SwinPosTransformer:
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., **settings))
    randomise(model)
    return model


def test_registered():
    built = MODELS.build(dict(type='mmdet.SwinPosTransformer', **MICRO))
    assert type(built) is SwinPosTransformer


# The table on its own grid

@pytest.mark.parametrize(('window', 'table'), [(4, 7), (7, 4), ((3, 5), 7), (7, (3, 5)), ([3, 7, (2, 4)], [7, 7, 3])])
def test_resampled_in_the_forward_equals_the_resized_table_loaded(window, table):
    ours = micro(window_size=window, table_window_size=table)
    direct = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., window_size=window))
    state = ours.state_dict()
    for name, module in direct.named_modules():
        if hasattr(module, 'table_window_size'):
            key = f'{name}.relative_position_bias_table'
            state[key] = resample_table(
                state[key], ours.get_submodule(name).table_window_size, module.table_window_size)
    direct.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, 45, 70)
    for got, want in zip(ours(image), direct(image)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_gradients_reach_a_table_on_another_grid():
    model = micro(window_size=5, table_window_size=3)
    sum(out.square().mean() for out in model(torch.randn(1, 3, 60, 60))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.endswith('relative_position_bias_table'):
            assert parameter.shape[0] == 25 and (parameter.grad != 0).all(), name


def test_identity_when_the_grids_agree():
    plain, explicit = micro(window_size=4), micro(window_size=4, table_window_size=4)
    explicit.load_state_dict(plain.state_dict(), strict=True)
    image = torch.randn(1, 3, 50, 50)
    assert all(torch.equal(a, b) for a, b in zip(plain(image), explicit(image)))


# Errors of mmdet's

def test_train_and_eval_return_the_model():
    model = micro()
    assert model.eval() is model and not model.training
    assert model.train() is model and model.training


@pytest.mark.parametrize('frozen', [0, 1, 2, 3])
def test_frozen_stages_hold_from_construction_on(frozen):
    model = micro(frozen_stages=frozen, use_abs_pos_embed=True, pretrain_img_size=64)
    for _ in range(2):
        assert not any(p.requires_grad for p in model.patch_embed.parameters())
        assert not model.absolute_pos_embed.requires_grad
        for i, stage in enumerate(model.stages):
            assert all(p.requires_grad != (i < frozen) for p in stage.parameters())
            assert all(p.requires_grad != (i < frozen) for p in getattr(model, f'norm{i}').parameters())
            assert stage.training == (i >= frozen)
        model.eval()
        model.train()


@pytest.mark.parametrize('settings', [dict(out_indices=(0, )), dict(out_indices=(1, )), dict(frozen_stages=1),
                                      dict(frozen_stages=2, out_indices=(1, 2)), dict()], ids=str)
def test_every_trainable_parameter_gets_a_gradient(settings):
    """DDP needs this when it does not search for unused parameters."""
    model = micro(**settings)
    sum(out.square().mean() for out in model(torch.randn(1, 3, 33, 33))).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(p.requires_grad for p in model.parameters())


def _ddp_worker(rank: int, folder: str, settings: dict) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(SwinPosTransformer(**settings))
    for step in range(3):  # a parameter without gradient makes the second step raise
        torch.manual_seed(10 * step + rank)
        sum(out.mean() for out in model(torch.randn(1, 3, 33, 40))).backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    torch.save(grads, f'{folder}/{rank}.pt')
    torch.distributed.barrier()
    os._exit(0)  # without clean-up, where torch may wait for gloo's thread while that waits for Python's lock


@pytest.mark.parametrize('settings', [dict(frozen_stages=1, out_indices=(1, ))], ids=str)
def test_ddp_without_unused_parameter_search(tmp_path, settings):
    mp.spawn(_ddp_worker, (str(tmp_path), dict(MICRO, **settings)), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in range(2))
    assert torch.equal(first, second) and (first != 0).any()


@pytest.mark.parametrize('size', [(64, 64), (64, 96), (37, 53), (200, 40)])
def test_absolute_position_embedding_at_any_size(size):
    model = micro(use_abs_pos_embed=True, pretrain_img_size=64)
    image = torch.randn(2, 3, *size)
    outs = model(image)
    assert outs[0].shape == (2, 16, -(-size[0] // 4), -(-size[1] // 4))
    grid = model.absolute_pos_embed.detach().view(1, 16, 16, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=outs[0].shape[2:], mode='bicubic', align_corners=False)
    plain = micro()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != 'absolute_pos_embed'})
    tokens, hw_shape = plain.patch_embed(image)
    plain.patch_embed.forward = lambda _: (tokens + resized.flatten(2).transpose(1, 2), hw_shape)
    for got, want in zip(outs, plain(image)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


# Precision, copies, files

@pytest.mark.parametrize('dtype', LOW)
def test_autocast_is_finite_and_close(dtype):
    model = micro()
    image = torch.randn(2, 3, 61, 90)
    exact = model(image)
    with torch.autocast('cpu', dtype=dtype):
        outs = model(image)
        loss = sum(out.float().square().mean() for out in outs)
    loss.backward()
    for out, want in zip(outs, exact):
        assert out.isfinite().all()
        # bfloat16 keeps 8 bits: 2 ** -8 of the values' size for each of the dozens of roundings on the way.
        assert (out.float() - want).abs().mean() < 0.05 * want.abs().mean()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_state_dict_survives_a_file(tmp_path):
    model, other = micro(), SwinPosTransformer(**MICRO)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    assert other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    model.eval(), other.eval()
    image = torch.randn(1, 3, 30, 30)
    assert all(torch.equal(a, b) for a, b in zip(model(image), other(image)))


def test_whole_model_survives_pickling():
    model = micro().eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    image = torch.randn(1, 3, 30, 30)
    clone = torch.load(buffer, weights_only=False)  # our own bytes, just written
    assert all(torch.equal(a, b) for a, b in zip(model(image), clone(image)))


def test_double_precision_is_kept_throughout():
    model = micro(window_size=5, table_window_size=7, use_abs_pos_embed=True, pretrain_img_size=64).double()
    image = torch.randn(1, 3, 30, 30, dtype=torch.float64)
    outs = model(image)
    assert all(out.dtype == torch.float64 for out in outs)
    # A detour through float32 would show at 1e-7: outputs would not follow a change of the tables of 1e-10.
    for name, parameter in model.named_parameters():
        if 'relative' in name or 'absolute' in name:
            parameter.data += 1e-10 * torch.randn_like(parameter)
    changes = [(a - b).abs().max() for a, b in zip(model(image), outs)]
    assert all(0 < change < 1e-8 for change in changes)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith('2.1.'), reason="torch 2.1's Dynamo fails at a second image size")
def test_compiled_equals_eager():
    model = micro(padding='mask').eval()
    compiled = torch.compile(model, backend='eager')
    for size in ((33, 40), (61, 90)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            for got, want in zip(compiled(image), model(image)):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


# Invalid settings

@pytest.mark.parametrize(('settings', 'error', 'message'), [
    (dict(window_size=0), ValueError, 'window_size must be at least 1 on each side, got 0'),
    (dict(window_size=7.), TypeError, r'an int or a pair \(h, w\) of ints, or .global., got 7.0'),
    (dict(window_size=(7, 7, 7)), TypeError, r'got \(7, 7, 7\)'),
    (dict(window_size=[7, 7]), ValueError, 'one entry for each of the 3 stages'),
    (dict(table_window_size=True), TypeError, 'got True'),
    (dict(num_heads=(3, 4, 8)), ValueError, r'num_heads\[0\] must divide the 16 channels of stage 0, got 3'),
    (dict(num_heads=(2, 4)), ValueError, 'num_heads must have one entry for each of the 3 stages'),
    (dict(depths=(2, 0, 2)), ValueError, r'got \(2, 0, 2\)'),
    (dict(out_indices=(0, 3)), ValueError, r'out_indices must be different stages from 0 to 2, got \(0, 3\)'),
    (dict(out_indices=()), ValueError, 'out_indices'),
    (dict(frozen_stages=4), ValueError, r'frozen_stages must be from -1 \(nothing\) to 3, got 4'),
    (dict(patch_size=2), ValueError, r'strides\[0\] must equal patch_size=2, got 4'),
    (dict(drop_path_rate=1.), ValueError, 'drop_path_rate must be a number from 0 to below 1, got 1.0'),
    (dict(resampling='cubic'), ValueError, "resampling must be one of .* got 'cubic'"),
    (dict(strides=(4, 0, 2)), ValueError, r'strides\[1\] must be at least 1 on each side, got 0'),
    (dict(mlp_ratio=0), ValueError, 'mlp_ratio must be a number above 0, got 0'),
    (dict(mlp_ratio='4'), ValueError, "mlp_ratio must be a number above 0, got '4'"),
    (dict(embed_dims=16.), ValueError, 'embed_dims must be an int of at least 1, got 16.0'),
    (dict(in_channels=0), ValueError, 'in_channels must be an int of at least 1, got 0'),
    (dict(depths=3), TypeError, 'depths takes a list or tuple, one entry per stage, got 3'),
    (dict(out_indices=1), TypeError, 'out_indices takes a list or tuple'),
    (dict(init_cfg=dict(checkpoint='a.pth')), ValueError, 'init_cfg needs a type'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint=None)), ValueError, 'needs checkpoint, a path or URL; got None'),
    (dict(pretrained=3), TypeError, 'pretrained must be a path or URL, got 3'),
    (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')), ValueError, 'not both'),
    (dict(use_abs_pos_embed=True, pretrain_img_size=2), ValueError, 'smaller than a patch'),
], ids=lambda value: str(value) if isinstance(value, dict) else '')
def test_impossible_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        SwinPosTransformer(**dict(MICRO, **settings))


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)])
def test_wrong_images_are_named(shape):
    with pytest.raises(ValueError, match=r'expected images of shape \(B, 3, H, W\), got'):
        micro()(torch.zeros(shape))


def test_a_setting_without_effect_warns():
    with pytest.warns(UserWarning, match="pretrain_img_size=384 has no effect .* position='absolute'"):
        micro(pretrain_img_size=384)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        micro()


@pytest.mark.parametrize('size', [(1, 1), (1, 50), (5, 3), (29, 2)])
def test_tiny_and_narrow_images(size):
    outs = micro()(torch.randn(1, 3, *size))
    assert all(out.isfinite().all() for out in outs)
    assert outs[0].shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize('layer', ['ffn.layers.0.1', 'ffn.layers.1'])
@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook',
                                      'register_full_backward_hook', 'register_full_backward_pre_hook'])
def test_hooks_in_the_feed_forward_network_are_called_in_training(layer, register):
    model, called = SwinPosTransformer(**MICRO).train(), []
    module = model.stages[0].blocks[0].get_submodule(layer)
    getattr(module, register)(lambda *_: called.append(layer))
    model(torch.randn(1, 3, 32, 32))[-1].sum().backward()
    assert called == [layer]


def test_an_initialization_that_fails_keeps_its_settings():
    settings = [dict(type='Pretrained', checkpoint='x.pth'), dict(type='Normal', layer='Linear', unknown=2)]
    model = SwinPosTransformer(**MICRO, init_cfg=settings)
    with pytest.raises(TypeError, match='unknown'):
        model.init_weights()
    assert [cfg['type'] for cfg in model.init_cfg] == ['Pretrained', 'Normal']
