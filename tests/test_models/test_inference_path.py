"""Inference by windows and rows on a CPU gives what the layers one after the other give."""
from __future__ import annotations

import math

import pytest
import torch

from swin_pos_det.layers import attention, linear, rows
from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2, patches, swin_blocks
from swin_pos_det.models.data_preprocessor import attach_valid_sizes

from .test_parity import MICRO, pair, randomise

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
    for module, name in ((attention, 'SLOTS'), (swin_blocks, 'ROWS'), (patches, 'ROWS')):
        monkeypatch.setattr(module, name, 100)  # so that a micro model has several blocks of them
    monkeypatch.setattr(linear, 'ENOUGH_TOKENS', 100)
    monkeypatch.setattr(linear, 'ENOUGH_ROWS', 1)
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


def test_equals_mmdets():
    theirs, ours = pair(**MICRO)
    theirs.train(False)
    ours.eval()
    images = torch.randn(2, 3, 224, 333)
    with torch.no_grad():
        for got, want in zip(ours(images), theirs(images)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(('settings', 'want'), [
    (dict(), 6), (dict(padding='mask'), 6), (dict(position='rope_mixed'), 4), (dict(position='none'), 6)])
def test_whether_windows_go_without_padding(monkeypatch, settings, want):
    """Not where padding is turned by its place in the window: here in the last stage."""
    taken = []
    own = swin_blocks.WindowAttention.attend_by_windows
    monkeypatch.setattr(swin_blocks.WindowAttention, 'attend_by_windows',
                        lambda self, tokens, norm, plan: taken.append(plan.window) or own(self, tokens, norm, plan))
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
def test_blocks_cover_all_rows_once(length, most, want):
    assert [(block.start, block.stop) for block in rows.blocks(length, most)] == want


@pytest.mark.parametrize(('length', 'most', 'least', 'want'), [
    (20, 7, 1, [7, 7, 4, 2]), (20, 7, 3, [7, 7, 4, 2]), (21, 8, 4, [8, 8, 4, 1]), (7, 7, 9, [7]), (6, 7, 5, [6]),
    (1, 9, 1, [1])])
def test_recurring_blocks(length, most, least, want):
    found = rows.recurring_blocks(length, most, least)
    assert [block.stop - block.start for block in found] == want
    assert [block.start for block in found] == [sum(want[:i]) for i in range(len(want))]


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
    monkeypatch.setattr(linear, 'ENOUGH_TOKENS', 1)
    monkeypatch.setattr(linear, 'ENOUGH_ROWS', 1)
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
