"""In graphs of torch.compile for inference on a CPU a block is one operator, and gives what the block gives."""
from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

from swin_pos_det.models import SwinPosTransformer, SwinPosTransformerV2
from swin_pos_det.models.block_operator import HAS_OPERATOR
from swin_pos_det.models.data_preprocessor import attach_valid_sizes

from .test_parity import randomise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_OPERATOR, reason='before torch 2.7 the code never makes the operator: '
                       'compiling cannot be told from exporting there'),
]
SMALL = dict(embed_dims=8, depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), drop_path_rate=0.)


def small(kind=SwinPosTransformer, **settings):
    model = kind(**SMALL, **settings)
    randomise(model)
    return model.eval()


class Recorder:
    """A backend that runs the graph as it is and keeps the names of what it calls."""

    def __init__(self) -> None:
        self.called = []

    def __call__(self, graph, inputs):
        self.called += [str(node.target) for node in graph.graph.nodes if node.op == 'call_function']
        return graph.forward

    @property
    def blocks(self) -> int:
        return sum('swin_pos_det' in name for name in self.called)


def compiled(model, backend='eager'):
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True)


def assert_same(got, want, atol=1e-5):
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(('kind', 'settings'), [
    (SwinPosTransformer, dict(window_size=[(3, 5), 12], table_window_size=7)),
    (SwinPosTransformer, dict(window_policy='fit', position='rope_axial')),
    (SwinPosTransformerV2, dict()),
])
def test_graphs_call_blocks(kind, settings):
    model, recorder = small(kind, **settings), Recorder()
    fast = compiled(model, recorder)
    images = torch.randn(2, 3, 50, 71)
    with torch.inference_mode():
        assert_same(fast(images), model(images))
    assert recorder.blocks == 3
    assert not any('attention' in name or 'softmax' in name for name in recorder.called)


def test_each_images_own_size_comes_through():
    model = small(padding='mask')
    fast = compiled(model)
    images = torch.randn(2, 3, 64, 80)
    attach_valid_sizes(images, [(64, 80), (33, 41)])
    with torch.no_grad():
        want = model(images)
        assert_same(fast(images), want)
        assert not torch.equal(want[0][1], model(images.clone())[0][1])


def test_training_and_exporting_have_the_layers_in_their_graphs():
    model, recorder = small(), Recorder()
    images = torch.randn(1, 3, 64, 64)
    assert_same(compiled(model, recorder)(images), model(images))
    model.train()
    with torch.no_grad():
        compiled(model, recorder)(images)
    assert recorder.called and not recorder.blocks
    with torch.no_grad():
        exported = torch.export.export(model.eval(), (images, ))
    assert 'swin_pos_det' not in str(exported.graph)


def test_weights_may_change():
    model = small()
    fast = compiled(model)
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        before = fast(images)[0]
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
        assert_same(fast(images), model(images))
        randomise(model)
        assert_same(fast(images), model(images))
        assert not torch.allclose(fast(images)[0], before)


def test_a_call_with_other_weights_has_them():
    model = small()
    images = torch.randn(1, 3, 40, 56)
    others = {name: 1.1 * parameter for name, parameter in model.named_parameters()}
    call = torch.compile(lambda weights, x: torch.func.functional_call(model, weights, (x, )), backend='eager')
    torch._dynamo.reset()
    with torch.no_grad():
        own = model(images)
        want = torch.func.functional_call(model, others, (images, ))
        assert_same(call(others, images), want)
        assert_same(model(images), own, atol=0)
        assert not torch.allclose(own[0], want[0])


@pytest.mark.parametrize('remake', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_outlive_what_they_were_made_of(remake):
    model = small()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        want = model(images)
        other = remake(model)
        randomise(model)
        assert_same(compiled(other)(images), want)
        del model
        gc.collect()
        assert_same(compiled(other)(images), want)


@pytest.mark.parametrize('where', ['stages.0.blocks.0', 'stages.1.blocks.0.norm1'])
def test_hooks_are_called_once(where):
    model, recorder = small(), Recorder()
    model.get_submodule(where).register_forward_hook(lambda module, inputs, output: 2 * output)
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert_same(compiled(model, recorder)(images), model(images))
    assert 0 < recorder.blocks < 3


def test_a_block_of_somebody_elses_gets_a_plan():
    class Own(torch.nn.Module):
        def forward(self, x, plan):
            return x * plan.num_windows

    model = small()
    model.stages[0].blocks[1] = Own()
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        assert_same(compiled(model)(images), model(images))


def test_copies_share_a_graph():
    from torch._dynamo.testing import CompileCounter
    counter = CompileCounter()
    models = [small()]
    models += [copy.deepcopy(models[0]) for _ in range(3)]
    for model in models[1:]:
        randomise(model)
    images = torch.randn(1, 3, 40, 56)
    torch._dynamo.reset()
    with torch.no_grad():
        for model in models:
            assert_same(torch.compile(model, backend=counter, fullgraph=True)(images), model(images))
    assert counter.frame_count == 1


@pytest.mark.parametrize('settings', [dict(), dict(patch_norm=False)])
@pytest.mark.parametrize('freezing', [False, True])
def test_inductor(settings, freezing):
    """With its own check of the strides that an operator's result has; frozen weights are other tensors."""
    from torch._inductor import config
    model = small(**settings)
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad(), config.patch(freezing=freezing):
        fast = compiled(model, 'inductor')
        assert_same(fast(images), model(images))
        assert_same(fast(images), model(images))


def test_autocast_reaches_the_block():
    model = small()
    fast = compiled(model, 'aot_eager')  # which runs graphs without autocast
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        exact = model(images)[0]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            want, got = model(images)[0], fast(images)[0]
    error = (want - exact).abs().mean()
    assert error > 1e-4 and (got - want).abs().mean() < 0.2 * error


@pytest.mark.parametrize('tokens', [torch.randn(2, 140, 8), torch.randn(2, 8, 140).transpose(1, 2)])
def test_keeps_the_rules_of_operators(tokens):
    """Torch's own check: nothing is written to, and the stand-in has the result's shape and strides."""
    block = small().stages[0].blocks[0]
    arguments = [tokens, list(block.parameters()), block._number, [10, 14], [7, 7], [0, 0], True, [10, 14, 5, 9], None]
    torch.library.opcheck(torch.ops.swin_pos_det.block.default, arguments,
                          test_utils=('test_schema', 'test_faketensor'))


def test_a_graph_that_outlived_its_block_says_so():
    block = small().stages[0].blocks[0]
    arguments = [torch.randn(1, 140, 8), list(block.parameters()), block._number, [10, 14], [7, 7], [0, 0], True]
    del block
    gc.collect()
    with pytest.raises(RuntimeError, match='outlived the model'):
        torch.ops.swin_pos_det.block(*arguments, None, None)
