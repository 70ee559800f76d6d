"""Exported once, equal to the backbone at sizes not seen before."""
from __future__ import annotations

import importlib.util
import math
import os

import pytest
import torch

from swin_pos_det.deployment import compare_exported, export_backbone, load_exported
from swin_pos_det.layers import relative_bias
from swin_pos_det.models import SwinPosTransformer
from tests.models import randomise

SIZES = [(1, 224, 224), (1, 96, 160), (3, 61, 90), (2, 17, 300), (1, 24, 31), (1, 333, 190), (2, 128, 128), (1, 40, 57)]
TINY = [(1, 1, 1), (2, 5, 300), (1, 300, 3)]  # torch.export refuses maps of a single row or column


def micro(**settings):
    model = SwinPosTransformer(embed_dims=8, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
                               drop_path_rate=0., **settings)
    randomise(model)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize('settings', [
    dict(), dict(window_size=12, table_window_size=7), dict(window_size='global', table_window_size=7)])
@pytest.mark.parametrize('kind', ['onnx', 'pt2'])
def test_equals_the_backbone_at_every_size(tmp_path, settings, kind):
    if kind == 'onnx' and not all(map(importlib.util.find_spec, ('onnx', 'onnxscript', 'onnxruntime'))):
        pytest.skip('onnx, onnxscript and onnxruntime are not installed')
    model = micro(**settings)
    run = load_exported(export_backbone(model, tmp_path / f'backbone.{kind}'))
    differences = compare_exported(model, run, SIZES)
    assert len(differences) == 8 and max(differences.values()) < 1e-4, differences
    if kind == 'onnx':
        assert max(compare_exported(model, run, TINY).values()) < 1e-4
    out = run(torch.randn(3, 3, 61, 90))
    assert [tuple(feature.shape) for feature in out] == [(3, 8, 16, 23), (3, 16, 8, 12)]


@pytest.mark.slow
def test_the_backbone_is_as_it_was_after_an_export(tmp_path):
    """Nothing that is made for the graph may get into a cache."""
    model = micro(window_size=9, table_window_size=7, resampling='geometric')
    images = torch.randn(1, 3, 61, 90)
    with torch.no_grad():
        before = model(images)
        relative_bias._placed_matrix.cache_clear()
        run = load_exported(export_backbone(model, tmp_path / 'backbone.pt2'))
        assert all(torch.equal(a, b) for a, b in zip(model(images), before))
    assert max(compare_exported(model, run, SIZES[:3]).values()) < 1e-4


def test_numbers_that_are_none_are_no_equality():
    model = micro()
    differences = compare_exported(model, lambda images: [out * math.nan for out in model(images)], SIZES[:2])
    assert all(math.isnan(difference) for difference in differences.values())


@pytest.mark.slow
def test_padding_is_hidden_in_a_graph_too(tmp_path):
    model = micro(padding='mask')
    with pytest.warns(UserWarning, match='data_preprocessor'):
        model(torch.randn(1, 3, 40, 40))
    with pytest.warns(UserWarning, match='not told the sizes of images'):
        path = export_backbone(model, tmp_path / 'backbone.pt2')
    assert max(compare_exported(model, load_exported(path), SIZES[:3]).values()) < 1e-4


@pytest.mark.parametrize(('path', 'settings', 'opset', 'message'), [
    ('backbone.pth', {}, 18, "must end in .onnx or .pt2, got 'backbone.pth'"),
    ('backbone.onnx', {}, 11, 'opset must be at least 18, got 11'),
    ('backbone.onnx', dict(window_policy='fit'), 18, "window_policy='fit' chooses windows by the size"),
])
def test_what_cannot_be_exported_is_said(tmp_path, path, settings, opset, message):
    with pytest.raises(ValueError, match=message):
        export_backbone(micro(**settings), tmp_path / path, opset)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no device that is always full')
@pytest.mark.parametrize('kind', ['onnx', 'pt2'])
def test_a_full_disk_is_an_error_and_no_abort(tmp_path, kind):
    """torch's own writer of .pt2 ends the process."""
    if kind == 'onnx':
        pytest.importorskip('onnxscript')
    model = SwinPosTransformer(embed_dims=8, depths=(1, ), num_heads=(1, ), strides=(4, ), out_indices=(0, ))
    path = tmp_path / f'backbone.{kind}'
    path.symlink_to('/dev/full')
    with pytest.raises(OSError, match='cannot write .*No space left on device'):
        export_backbone(model, path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_an_older_torch_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, 'Dim', lambda name: name, raising=False)  # as in torch 2.1, or without it
    with pytest.raises(ImportError, match='needs torch 2.6 or newer, this is'):
        export_backbone(micro(), tmp_path / 'backbone.pt2')


@pytest.mark.slow
def test_compiles_in_one_graph_for_many_sizes():
    """No graph breaks, and a handful of compilations for thirty sizes."""
    from torch._dynamo.testing import CompileCounter
    model, counter = micro(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    sizes = torch.randint(64, 320, (30, 3), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        for batch, height, width in sizes:
            images = torch.randn(1 + batch % 3, 3, height, width)
            for got, want in zip(compiled(images), model(images)):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert counter.frame_count <= 6, counter.frame_count


@pytest.mark.slow
def test_training_of_a_convolutional_scheme_compiles_for_more_than_one_size():
    model = SwinPosTransformer(embed_dims=8, depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,),
                               drop_path_rate=0., position='peg')
    torch._dynamo.reset()
    compiled = torch.compile(model, dynamic=True)
    for size in ((70, 90), (64, 64)):
        images = torch.randn(2, 3, *size)
        torch.testing.assert_close(compiled(images)[0], model(images)[0], rtol=0, atol=1e-5)


def test_a_file_that_onnxruntime_cannot_run(tmp_path):
    pytest.importorskip('onnxruntime')
    (tmp_path / 'backbone.onnx').write_bytes(b'nonsense')
    with pytest.raises(ValueError, match=r'onnxruntime [\d.]+ cannot run .*backbone.onnx; is its opset too new'):
        load_exported(tmp_path / 'backbone.onnx')
