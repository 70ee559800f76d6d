"""CUDA graphs: what is captured, replayed, dropped and left alone. Without a GPU by the graphs of tests/fake_graphs.py;
tests/test_gpu/test_cuda_graphs.py has real ones."""
from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swin_pos_det.ops import use_impl, windows
from swin_pos_det.ops.cuda_graphs import MAX_SEEN, GraphedCall
from swin_pos_det.ops.runtime import hold_cached, tensor_cache
from tests.fake_graphs import FakeDevice, images
from tests.models import micro


@pytest.fixture(scope='module')
def backbone():
    return micro(depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1)).eval()


@pytest.fixture
def device():
    return FakeDevice()


@pytest.fixture
def graphed(backbone, device):
    with torch.no_grad():
        yield GraphedCall(backbone, [backbone], device=device)


def equal(got, want):
    return len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want))


@pytest.mark.filterwarnings('ignore:.*SwinPosDataPreprocessor')
@pytest.mark.parametrize('settings', [
    dict(), dict(window_size=12, table_window_size=7), dict(window_policy='fit'), dict(padding='mask'),
    dict(position='rope_mixed+log_cpb'), dict(attention='cosine', norm_order='res-post', key_bias=False),
    dict(window_policy='scale', reference_size=64), dict(use_abs_pos_embed=True)], ids=str)
def test_replays_equal_calls(device, settings):
    model = micro(depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1), **settings).eval()
    graphed = GraphedCall(model, [model], device=device)
    with torch.no_grad():
        for seed, size in enumerate([(61, 90), (48, 40)] * 4):
            image = images(*size, batch=2, seed=seed)
            want = model(image)  # before: the first forward of some models sets an attribute, that they have warned
            assert equal(graphed(image), want)
    assert device.counts == (2, 6)


def test_a_size_is_captured_at_its_second_time(graphed, device):
    for size in ((32, 32), (40, 40), (48, 48), (32, 32), (32, 32)):
        graphed(images(*size))
    assert device.counts == (1, 2)


def test_results_are_the_callers_own(graphed):
    graphed(images(32, 32))
    first = graphed(images(32, 32, seed=1))
    kept = [out.clone() for out in first]
    second = graphed(images(32, 32, seed=2))
    assert equal(first, kept)
    assert not equal(first, second)


def test_the_least_recently_used_size_is_dropped(backbone, device):
    graphed = GraphedCall(backbone, [backbone], 2, device)
    with torch.no_grad():
        for size in (32, 32, 40, 40, 32, 48, 48):  # 40 is dropped
            graphed(images(size, size))
        assert (device.counts, len(graphed), device.waits) == ((3, 4), 2, 1)
        graphed(images(32, 32))
        assert device.counts == (3, 5)
        for seed in range(2):
            assert equal(graphed(images(40, 40, seed=seed)), backbone(images(40, 40, seed=seed)))
        assert (device.counts, len(graphed)) == ((4, 6), 2)


def test_the_sizes_seen_are_bounded(device):
    graphed = GraphedCall(torch.relu, [], device=device)
    with torch.no_grad():
        for length in range(MAX_SEEN + 10):
            graphed(torch.zeros(length))
        assert len(graphed._seen) == MAX_SEEN


def test_no_graph_with_gradients_or_modes(backbone, graphed, device):
    for _ in range(3):
        with torch.enable_grad():
            assert graphed(images(32, 32))[0].requires_grad
        with FlopCounterMode(display=False):
            graphed(images(32, 32))
        device.graphs = False  # as on a CPU, and while a graph is captured
        graphed(images(32, 32))
        device.graphs = True
    assert device.counts == (0, 0)
    with torch.inference_mode():
        outs = [graphed(images(32, 32, seed=seed)) for seed in range(3)]
    assert equal(outs[2], backbone(images(32, 32, seed=2)))
    assert device.counts == (1, 2)


def test_no_graph_in_training_or_with_hooks(backbone, graphed, device):
    block = backbone.stages[1].blocks[0]
    seen = []

    def run():
        for _ in range(3):
            graphed(images(32, 32))
        return device.counts

    block.norm1.train()
    assert run() == (0, 0)
    block.norm1.eval()
    for register in (block.register_forward_hook, block.register_forward_pre_hook,
                     nn.modules.module.register_module_forward_hook):
        handle = register(lambda *args: seen.append(args))
        assert run() == (0, 0)
        handle.remove()
    assert len(seen) > 9
    block.norm1.forward = lambda x: nn.functional.layer_norm(x, x.shape[-1:])
    assert run() == (0, 0)
    del block.norm1.forward
    assert run() == (1, 2)


def test_another_stream_has_no_graph(graphed, device):
    for _ in range(2):
        graphed(images(32, 32))
    device.stream_name = 'side'
    for _ in range(3):
        graphed(images(32, 32))
    assert device.counts == (1, 1)


def test_constants_autocast_and_requested_implementations_have_their_own(backbone, device):
    def scaled(x, factor):
        return [out * factor for out in backbone(x)]

    graphed = GraphedCall(scaled, [backbone], device=device)
    image = images(32, 32)
    with torch.no_grad():
        for _ in range(2):
            assert equal(graphed(image, 2), scaled(image, 2))
            assert equal(graphed(image, 3), scaled(image, 3))
            with torch.autocast('cpu', torch.bfloat16):
                low = graphed(image, 2)
            with use_impl('reference'):
                graphed(image, 2)
        with torch.autocast('cpu', torch.bfloat16):
            assert equal(low, scaled(image, 2))
    assert (device.captured, len(graphed)) == (4, 4)


def test_weights_may_change_in_place(device):
    model = micro(depths=(1, ), num_heads=(2, ), strides=(4, ), out_indices=(0, )).eval()
    graphed, image = GraphedCall(model, [model], device=device), images(32, 32)
    with torch.no_grad():
        before = [graphed(image) for _ in range(2)][1]
        for parameter in model.parameters():
            parameter.mul_(1.5)
        after = graphed(image)
        assert equal(after, model(image))
        assert not equal(after, before)
    assert device.counts == (1, 2)


def _new_window(model):
    model.set_window_size(5)


def _new_policy(model):
    model.set_window_size(7, 'fit')


def _new_dtype(model):
    model.double()


def _new_parameter(model):
    model.norm0.weight = nn.Parameter(model.norm0.weight + 1)


def _new_module(model):
    model.stages[0].blocks[0].norm1 = nn.Identity().eval()


def _new_attribute(model):
    model.stages[0].blocks[0].attn.w_msa.scale = 0.5


@pytest.mark.parametrize('change', [_new_window, _new_policy, _new_dtype, _new_parameter, _new_module, _new_attribute])
def test_graphs_are_dropped_when_something_changes(device, change):
    model = micro(depths=(1, ), num_heads=(2, ), strides=(4, ), out_indices=(0, )).eval()
    graphed = GraphedCall(model, [model], device=device)
    with torch.no_grad():
        for _ in range(2):
            graphed(images(40, 40))
        change(model)
        image = images(40, 40).to(model.norm0.weight.dtype)
        for _ in range(3):
            assert equal(graphed(image), model(image))
    assert (device.counts, len(graphed)) == ((2, 3), 1)


def test_what_cannot_be_captured_runs_without(backbone, graphed, device):
    for size in (32, 40):
        for _ in range(2):
            graphed(images(size, size))
    device.refuses = True
    graphed(images(48, 48))
    with pytest.warns(UserWarning, match='CUDA graphs are off, since capturing one failed: operation not permitted'):
        out = graphed(images(48, 48))
    assert equal(out, backbone(images(48, 48)))
    device.refuses = False
    for _ in range(3):
        graphed(images(32, 32))
    assert (device.counts, len(graphed)) == ((2, 2), 0)


def test_results_must_be_tensors(device):
    graphed = GraphedCall(lambda x: (x, 1), [], device=device)
    with torch.no_grad():
        graphed(images(8, 8))
        with pytest.warns(UserWarning, match='something else than tensors'):
            graphed(images(8, 8))


def test_copies_have_no_graphs(backbone, graphed, device):
    for _ in range(2):
        graphed(images(32, 32))
    for made in (copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert len(made) == 0
        assert made.modules[0] is made.function
        assert made.function is not backbone
        assert made.max_graphs == graphed.max_graphs


def test_threads_take_turns(backbone, graphed, device):
    for _ in range(2):
        graphed(images(32, 32))
    wrong = []

    def run(seed):
        with torch.no_grad():
            for _ in range(5):
                if not equal(graphed(images(32, 32, seed=seed)), backbone(images(32, 32, seed=seed))):
                    wrong.append(seed)

    threads = [threading.Thread(target=run, args=(seed, )) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert device.counts == (1, 11)


def test_a_graph_keeps_its_plans(backbone, graphed):
    """Its kernels read them, even if the caches drop them."""
    for _ in range(2):
        graphed(images(32, 32))
    windows.build_plan.cache_clear()
    (captured, ) = graphed._graphs.values()
    plans = [weakref.ref(value) for value in captured.held.values() if isinstance(value, windows.WindowPlan)]
    assert len(plans) == 4
    gc.collect()
    assert all(plan() is not None for plan in plans)
    assert equal(graphed(images(32, 32, seed=3)), backbone(images(32, 32, seed=3)))
    del captured
    graphed.clear()
    gc.collect()
    assert not any(plan() for plan in plans)


def test_while_a_graph_is_captured_caches_give_what_is_held(monkeypatch):
    make = tensor_cache(2)(lambda size: torch.zeros(size))
    with hold_cached() as held:
        known = make(3)
        monkeypatch.setattr('swin_pos_det.ops.runtime.is_capturing', lambda: True)
        assert make(3) is known
        new = make(4)
        assert make(4) is new, 'the same graph may use it again'
    assert len(held) == 2
    assert make(4) is not new, 'made by kernels that have not run'
    monkeypatch.undo()
    assert make(4) is not new
    assert make(3) is known
