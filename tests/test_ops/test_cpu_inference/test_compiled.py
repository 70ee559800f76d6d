"""A compiled model leaves its blocks to the CPU's inference, and gives what the model gives."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from swin_pos_det.ops import cpu_inference
from swin_pos_det.ops.cpu_inference import block, chunks
from tests.models import randomise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(torch.compiler, '_is_exporting_flag'),
                       reason='before torch 2.7 graphs have the layers, as they look like exports'),
]
SMALL = dict(embed_dims=8, depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), drop_path_rate=0.)


@pytest.fixture
def taken(monkeypatch):
    """Return the blocks that CPU inference ran in eager mode."""
    found, own = [], block.can_chunk
    monkeypatch.setattr(chunks, 'MIN_NUMBERS', 1)
    monkeypatch.setattr(block, 'can_chunk', lambda module: own(module) and not found.append(module))
    torch._dynamo.reset()
    return found


@pytest.mark.parametrize(('kind', 'backend'), [
    (SwinPosTransformer, 'eager'), (SwinPosTransformerV2, 'eager'), (SwinPosTransformer, 'inductor')])
def test_blocks_stay_fast(taken, kind, backend):
    model = kind(**SMALL, padding='mask').eval()
    randomise(model)
    compiled = torch.compile(model, backend=backend)
    for size in ((40, 56), (50, 71)):
        images = torch.randn(2, 3, *size)
        attach_valid_sizes(images, [size, (33, 41)])
        with torch.no_grad():
            want = model(images)
            taken.clear()
            got = compiled(images)
        assert len(taken) == 3
        for a, b in zip(got, want):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_hook_is_called_once(taken):
    model = SwinPosTransformer(**SMALL).eval()
    calls = []
    model.stages[0].blocks[0].norm1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        torch.compile(model, backend='eager')(torch.randn(1, 3, 40, 56))
    assert calls == [1] and len(taken) == 2


def test_one_graph_where_it_is_switched_off(taken, monkeypatch):
    monkeypatch.setenv('SWIN_POS_DET_CPU_INFERENCE', '0')
    model, images = SwinPosTransformer(**SMALL).eval(), torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        got = torch.compile(model, backend='eager', fullgraph=True)(images)
        for a, b in zip(got, model(images)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert not taken


def test_training_and_exporting_have_the_layers_in_one_graph(taken):
    model = SwinPosTransformer(**SMALL)
    torch.compile(model, backend='eager', fullgraph=True)(torch.randn(1, 3, 40, 56))[0].sum().backward()
    with torch.no_grad():
        torch.export.export(model.eval(), (torch.randn(1, 3, 64, 64), ))
    assert not taken and cpu_inference.can_run is block.can_run
