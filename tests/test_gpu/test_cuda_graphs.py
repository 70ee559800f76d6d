"""CUDA graphs on a real GPU: equal features, one pool, and the reasons to run without."""
from __future__ import annotations

import pytest
import torch

from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from swin_pos_det.ops.cuda_graphs import GraphedCall
from tests.fake_graphs import images
from tests.models import micro

CUDA = torch.device('cuda')
SIZES = [(61, 90), (48, 40), (64, 64)]


def equal(got, want):
    """Whether features are the same, up to another choice of the libraries' kernels."""
    return all(torch.allclose(a, b, rtol=0, atol=1e-5 if b.dtype == torch.float32 else 2e-2)
               for a, b in zip(got, want))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('settings', [dict(), dict(window_size=12, table_window_size=7), dict(padding='mask')], ids=str)
def test_replays_equal_calls(settings, autocast, dtype):
    model = micro(**settings).to(CUDA, torch.float32 if autocast else dtype).eval()

    def features(image, sizes):
        attach_valid_sizes(image, sizes)
        return model(image)

    graphed = GraphedCall(features, [model], max_graphs=2)
    with torch.no_grad(), torch.autocast('cuda', dtype, enabled=autocast):
        for turn in range(3):  # three sizes in two graphs: each is captured again after it was dropped
            for seed, size in enumerate([size for size in SIZES for _ in range(3)]):
                image = images(*size, batch=2, seed=10 * turn + seed).to(CUDA, next(model.parameters()).dtype)
                valid = (size, (size[0] - 20, size[1] - 10))
                want = features(image, valid)
                got = graphed(image, valid)
                torch.cuda.synchronize()
                assert equal(got, want)
    assert len(graphed) == 2


def test_weights_may_change_in_place_and_graphs_share_a_pool():
    model = micro().to(CUDA).eval()
    graphed = GraphedCall(model, [model])
    with torch.no_grad():
        for size in SIZES:
            for seed in range(2):
                graphed(images(*size, seed=seed).to(CUDA))
        for parameter in model.parameters():
            parameter.mul_(1.25)
        for size in SIZES:
            image = images(*size).to(CUDA)
            assert equal(graphed(image), model(image))
        before = torch.cuda.memory_allocated()
        held = [graphed(images(*size, seed=seed).to(CUDA)) for seed in range(3) for size in SIZES]
        del held
        assert torch.cuda.memory_allocated() == before
    assert len(graphed) == len(SIZES)


def test_what_waits_for_the_gpu_runs_without():
    def waits(x):
        return x * x.sum().item()

    graphed, image = GraphedCall(waits, []), torch.ones(4, device=CUDA)
    stream = torch.cuda.current_stream()
    with torch.no_grad():
        graphed(image)
        with pytest.warns(UserWarning, match='CUDA graphs are off'):
            out = graphed(image)
    assert out.tolist() == [4.] * 4
    assert torch.cuda.current_stream() == stream
    assert (graphed(image) + 1).tolist() == [5.] * 4


def test_it_is_left_alone_in_training_and_within_another_capture():
    model = micro().to(CUDA)
    graphed, image = GraphedCall(model, [model]), images(64, 64).to(CUDA)
    for _ in range(3):
        assert graphed(image)[0].requires_grad
    model.eval()
    with torch.no_grad():
        want = model(image)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = graphed(image)
        graph.replay()
        torch.cuda.synchronize()
        assert equal(out, want)
    assert len(graphed) == 0
