"""Inference of blocks and patch merging on a CPU equals the layers one after the other."""
from __future__ import annotations

import math

import pytest
import torch

from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from swin_pos_det.models.swin_blocks import SwinBlock
from swin_pos_det.ops import cpu_inference, use_impl
from swin_pos_det.ops.cpu_inference import attention, block, chunks, linear
from swin_pos_det.ops.masks import split
from tests.models import MICRO, pair, randomise


@pytest.fixture(autouse=True)
def _small_maps_count_as_large(monkeypatch):
    monkeypatch.setattr(chunks, 'MIN_NUMBERS', 1)

SETTINGS = [
    dict(),
    dict(window_size=[(3, 5), 'global', 12], table_window_size=7),
    dict(window_policy='fit', padding='mask'),
    dict(position='none', qkv_bias=False),
]


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('kind', [SwinPosTransformer, SwinPosTransformerV2])
@pytest.mark.parametrize('size', [(224, 224), (37, 53), (150, 410)])
def test_with_and_without_gradients(monkeypatch, kind, settings, size):
    if kind is SwinPosTransformerV2 and 'position' in settings:
        pytest.skip('Swin V2 has a position scheme and biases of its own')
    for module, name in ((attention, 'MAX_SLOTS'), (attention, 'MAX_SCORES'), (chunks, 'CHUNK')):
        monkeypatch.setattr(module, name, 100)  # so that a micro model has several blocks of them
    monkeypatch.setattr(linear, 'MIN_TOKENS', 100)
    monkeypatch.setattr(linear, 'MIN_ROWS', 1)
    settings = dict(dict(window_size=7), **settings)
    if kind is SwinPosTransformerV2:
        settings.pop('table_window_size', None)
        settings['pretrained_window_sizes'] = [7, 7, 7]
    model = kind(**dict(MICRO, drop_path_rate=0., **settings)).eval()
    randomise(model)
    images = torch.randn(2, 3, *size)
    if settings.get('padding') == 'mask':
        attach_valid_sizes(images, [size, (size[0] // 2, size[1] - 9)])
    want = model(images)
    assert want[0].requires_grad
    with torch.no_grad():
        got = model(images)
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


class Half(torch.nn.Module):

    def forward(self, x):
        return x / 2


def _patch(module):
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs) / 2


CHANGES = {
    'path of attention': lambda block: setattr(block.attn, 'drop', Half()),
    'dropout of attention': lambda block: setattr(block.attn.w_msa, 'proj_drop', Half()),
    'path of the network': lambda block: setattr(block.ffn, 'dropout_layer', Half()),
    'dropout of the network': lambda block: block.ffn.layers.__setitem__(2, Half()),
    'hidden dropout': lambda block: block.ffn.layers[0].__setitem__(2, Half()),
    'patched attention': lambda block: _patch(block.attn),
    'patched windows': lambda block: _patch(block.attn.w_msa),
    'patched projection': lambda block: _patch(block.attn.w_msa.proj),
    'patched queries': lambda block: _patch(block.attn.w_msa.qkv),
    'patched layer': lambda block: _patch(block.ffn.layers[1]),
    'another network': lambda block: setattr(block, 'ffn', Residual()),
}


class Residual(torch.nn.Module):

    def forward(self, x, identity, norm=None):
        return identity + x / 2


@pytest.mark.parametrize('change', CHANGES)
def test_changed_blocks_are_the_same_with_and_without_gradients(change):
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., window_size=7)).eval()
    randomise(model)
    images = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        plain = model(images)
        for stage in model.stages:
            for block in stage.blocks:
                CHANGES[change](block)
        got = model(images)
    want = model(images)
    assert (want[0] - plain[0]).abs().max() > 1e-3
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_dropout_that_stays_on_in_evaluation():
    model = SwinPosTransformer(**dict(MICRO, drop_path_rate=0., drop_rate=.3, window_size=7)).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    images = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        assert not torch.equal(model(images)[0], model(images)[0])


def test_hooks_on_all_modules_see_every_call():
    model = SwinPosTransformer(**dict(MICRO, window_size=7)).eval()
    calls = []
    images = torch.randn(1, 3, 61, 90)
    with torch.nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module).__name__)):
        model(images)
        want, calls = calls, []
        with torch.no_grad():
            model(images)
    assert calls == want and 'WindowAttention' in want


def test_what_wraps_the_projection_of_swin_v2_is_called():
    class LowRank(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.weight = base, base.weight
            self.adapter = torch.nn.Linear(base.in_features, base.out_features, bias=False)

        def forward(self, x):
            return self.base(x) + self.adapter(x)

    model = SwinPosTransformerV2(**dict(MICRO, drop_path_rate=0., window_size=7)).eval()
    randomise(model)
    window_attention = model.stages[0].blocks[0].attn.w_msa
    window_attention.qkv = LowRank(window_attention.qkv)
    images = torch.randn(1, 3, 61, 90)
    want = model(images)
    sum(out.sum() for out in want).backward()
    assert window_attention.qkv.adapter.weight.grad.abs().max() > 0
    with torch.no_grad():
        for a, b in zip(model(images), want):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_under_transformations_of_functions():
    model = SwinPosTransformer(**dict(MICRO, window_size=7)).eval()
    randomise(model)
    images = torch.randn(2, 1, 3, 61, 90)
    with torch.no_grad():
        want = model(images.flatten(0, 1))[0]
        got = torch.func.vmap(lambda image: model(image)[0])(images).flatten(0, 1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_equals_mmdets():
    theirs, ours = pair(**MICRO)
    theirs.train(False)
    ours.eval()
    images = torch.randn(2, 3, 224, 333)
    with torch.no_grad():
        for got, want in zip(ours(images), theirs(images)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_small_maps_go_as_they_are(monkeypatch):
    """Windows and rows, some at a time, cost more than they save where a map stays in the cache."""
    taken = []
    monkeypatch.setattr(chunks, 'MIN_NUMBERS', 16 * 14 * 14)
    monkeypatch.setattr(cpu_inference, 'run', lambda own, x, plan: (
        taken.append(tuple(x.shape)) or block.run(own, x, plan)))
    model = SwinPosTransformer(**dict(MICRO, embed_dims=8, window_size=7)).eval()
    images = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        got = model(images)
    assert taken == [(1, 28 * 28, 8)] * 2 + [(1, 14 * 14, 16)] * 2
    for a, b in zip(got, model(images)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('settings', 'want'), [
    (dict(), 6), (dict(padding='mask'), 6), (dict(position='rope_mixed'), 4), (dict(position='none'), 6)])
def test_whether_windows_go_without_padding(monkeypatch, settings, want):
    """Not where padding is turned by its place in the window: here in the last stage."""
    taken = []
    own = block.attend_without_padding
    monkeypatch.setattr(block, 'attend_without_padding', lambda *args: taken.append(args[0]) or own(*args))
    model = SwinPosTransformer(**dict(MICRO, window_size=[7, 7, 12], **settings)).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 112, 112))
    assert len(taken) == want


def test_in_double_precision():
    model = SwinPosTransformer(**dict(MICRO, window_size=7)).eval().double()
    randomise(model)
    images = torch.randn(1, 3, 61, 90, dtype=torch.float64)
    want = model(images)
    with torch.no_grad():
        for a, b in zip(model(images), want):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(('length', 'most', 'want'), [
    (5, 2, [(0, 2), (2, 4), (4, 5)]), (4, 2, [(0, 2), (2, 4)]), (1, 9, [(0, 1)])])
def test_a_split_covers_all_rows_once(length, most, want):
    assert [(part.start, part.stop) for part in split(length, most)] == want


@pytest.mark.parametrize(('length', 'most', 'least', 'want'), [
    (20, 7, 1, [7, 7, 4, 2]), (20, 7, 3, [7, 7, 4, 2]), (21, 8, 4, [8, 8, 4, 1]), (7, 7, 9, [7]), (6, 7, 5, [6]),
    (1, 9, 1, [1])])
def test_recurring_chunks(length, most, least, want):
    found = chunks.recurring_chunks(length, most, least)
    assert [part.stop - part.start for part in found] == want
    assert [part.start for part in found] == [sum(want[:i]) for i in range(len(want))]


@pytest.mark.parametrize('name', ['attn', 'attn.w_msa', 'attn.drop', 'ffn', 'ffn.layers', 'ffn.layers.0'])
@pytest.mark.parametrize('norm_order', ['pre', 'res-post'])
def test_a_hook_on_what_would_not_be_called_is_called(name, norm_order):
    model = SwinPosTransformer(**dict(MICRO, norm_order=norm_order)).eval()
    images, shapes = torch.randn(2, 3, 61, 90), []
    with torch.no_grad():
        want = model(images)
        model.stages[1].blocks[1].get_submodule(name).register_forward_hook(
            lambda module, given, out: shapes.append(tuple(out.shape)))
        got = model(images)
    assert sum(math.prod(shape[:-1]) for shape in shapes) == 2 * 8 * 12
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['attn.w_msa.qkv', 'attn.w_msa.proj', 'ffn.layers.0.0', 'ffn.layers.1'])
def test_a_layer_with_a_hook_is_called(monkeypatch, name):
    monkeypatch.setattr(linear, 'MIN_TOKENS', 1)
    monkeypatch.setattr(linear, 'MIN_ROWS', 1)
    model = SwinPosTransformer(**MICRO).eval()
    with torch.no_grad():
        before = model(torch.ones(1, 3, 61, 90))
        model.stages[0].blocks[0].get_submodule(name).register_forward_hook(lambda module, given, out: 2 * out)
        assert not torch.allclose(before[0], model(torch.ones(1, 3, 61, 90))[0], atol=1e-3)


def test_a_flop_counter_counts_the_same_without_gradients():
    from torch.utils.flop_counter import FlopCounterMode
    model, image, counts = SwinPosTransformer(**MICRO).eval(), torch.randn(1, 3, 224, 224), []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
            model(image)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def runs(monkeypatch, model) -> int:
    """Count the blocks of a model that CPU inference runs."""
    taken = []
    with monkeypatch.context() as patch:
        patch.setattr(cpu_inference, 'run', lambda own, x, plan: taken.append(own) or block.run(own, x, plan))
        with torch.no_grad():
            model(torch.randn(1, 3, 61, 90))
    return len(taken)


def test_can_be_switched_off(monkeypatch):
    model = SwinPosTransformer(**MICRO).eval()
    assert runs(monkeypatch, model) == 6
    with use_impl('sdpa'):
        assert runs(monkeypatch, model) == 0, 'an implementation was requested'
    monkeypatch.setenv('SWIN_POS_DET_CPU_INFERENCE', '0')
    assert runs(monkeypatch, model) == 0
    monkeypatch.setenv('SWIN_POS_DET_CPU_INFERENCE', '1')
    assert runs(monkeypatch, model.train()) == 0


def test_modified_blocks_run_their_layers(monkeypatch):
    class Own(SwinBlock):
        def _forward(self, x, plan):
            return x

    class Adapted(torch.nn.Linear):
        pass

    model = SwinPosTransformer(**MICRO).eval()
    first = model.stages[0].blocks
    first[0].__class__ = Own
    first[1].norm2.register_forward_hook(lambda *_: None)
    model.stages[1].blocks[0].attn.w_msa.qkv = Adapted(32, 96)
    assert runs(monkeypatch, model) == 3
    assert runs(monkeypatch, SwinPosTransformer(**MICRO, act_cfg=dict(type='ReLU')).eval()) == 0
