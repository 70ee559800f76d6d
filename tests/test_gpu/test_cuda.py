"""The backbone on a real GPU: the same results, the fast kernels, no waiting, bounded memory."""
from __future__ import annotations

import random
from typing import Any, Callable, Dict, Iterator, Tuple

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import Tensor, nn

from swin_pos_det.models import SwinPosTransformer
from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from swin_pos_det.ops.windows import MAX_CACHED_PLANS
from tests.models import MICRO, pair, randomise

CUDA = torch.device('cuda')
SIZES = [(224, 224), (256, 320), (250, 333), (37, 53)]
LOW = [torch.bfloat16, torch.float16]
MIB = 2**20


def on_cuda(**settings: Any) -> Tuple[SwinTransformer, SwinPosTransformer]:
    theirs, ours = pair(**settings)
    return theirs.to(CUDA), ours.to(CUDA)


@pytest.mark.parametrize('window', [7, 12])
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_features_equal_mmdets(size, window):
    theirs, ours = on_cuda(window_size=window)
    image = torch.randn(2, 3, *size, device=CUDA)
    with torch.no_grad():
        for got, want in zip(ours(image), theirs(image)):
            torch.testing.assert_close(got, want, rtol=0, atol=3e-5)


@pytest.mark.parametrize('window', [7, 12])
def test_gradients_equal_mmdets(window):
    theirs, ours = on_cuda(**MICRO, window_size=window)
    image = torch.randn(2, 3, 250, 333, device=CUDA)
    (_, want), (_, got) = _gradients(theirs, image), _gradients(ours, image)
    assert got.keys() == want.keys()
    for name, grad in want.items():
        error, size = (got[name] - grad).norm(), grad.norm()
        assert error <= 1e-4 * size.clamp(min=0.01), f'{name}: error {error:.2e} of {size:.2e}'


def _gradients(model: nn.Module, image: Tensor) -> Tuple[Tuple[Tensor, ...], Dict[str, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        image = image.clone().requires_grad_()
        outs = model(image)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(out.shape, generator=generator).to(out) for out in outs]
        sum((out.float() * weight.float()).sum() for out, weight in zip(outs, weights)).backward()
    return tuple(outs), dict({name: p.grad for name, p in model.named_parameters()}, image=image.grad)


@pytest.mark.parametrize('dtype', LOW, ids=str)
def test_autocast_is_as_exact_as_mmdets(dtype):
    theirs, ours = on_cuda()
    image = torch.randn(2, 3, 250, 333, device=CUDA)
    with torch.no_grad():
        exact = theirs(image)
        with torch.autocast('cuda', dtype):
            low = [model(image) for model in (ours, theirs)]
    for got, reference, want in zip(*low, exact):
        assert got.dtype == reference.dtype
        assert (got - want).norm() <= 1.2 * (reference - want).norm() + 1e-3 * want.norm()


@pytest.mark.parametrize('dtype', LOW, ids=str)
def test_gradients_under_autocast_are_as_exact_as_mmdets(dtype):
    theirs, ours = on_cuda(**MICRO)
    image = torch.randn(2, 3, 250, 333, device=CUDA)
    exact = {name: grad.clone() for name, grad in _gradients(theirs, image)[1].items()}
    found = []
    for model in (ours, theirs):
        model.zero_grad(set_to_none=True)
        with torch.autocast('cuda', dtype):
            found.append(_gradients(model, image)[1])
    for name, want in exact.items():
        got, reference = ((grads[name] - want).norm() for grads in found)
        assert got <= 1.5 * reference + 1e-2 * want.norm(), f'{name}: {got:.2e}, mmdet {reference:.2e}'


@pytest.mark.parametrize('settings', [
    dict(padding='mask'), dict(window_policy='fit'), dict(window_size='global', table_window_size=7),
    dict(use_abs_pos_embed=True, pretrain_img_size=64)], ids=str)
def test_equals_the_cpu(settings):
    ours = SwinPosTransformer(**MICRO, drop_path_rate=0., **settings).eval()
    randomise(ours)
    image = torch.randn(2, 3, 61, 90)
    attach_valid_sizes(image, [(61, 90), (40, 33)])
    with torch.no_grad():
        want = ours(image)
        moved = image.to(CUDA)
        attach_valid_sizes(moved, [(61, 90), (40, 33)])
        for got, expected in zip(ours.to(CUDA)(moved), want):
            torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-4)


@pytest.fixture
def only_efficient() -> Iterator[None]:
    """Allow attention the memory-efficient kernels only; it raises where they do not fit."""
    attention = pytest.importorskip('torch.nn.attention')
    with attention.sdpa_kernel([attention.SDPBackend.EFFICIENT_ATTENTION]):
        yield


@pytest.mark.parametrize('dtype', [torch.float32, *LOW], ids=str)
@pytest.mark.parametrize('window', [7, 12, 16])
@pytest.mark.parametrize('train', [False, True])
def test_attention_takes_the_memory_efficient_kernels(only_efficient, window, dtype, train):
    ours = SwinPosTransformer(window_size=window, drop_path_rate=0.).to(CUDA).train(train)
    with torch.set_grad_enabled(train), torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
        outs = ours(torch.randn(1, 3, 250, 333, device=CUDA))
    if train:
        sum(out.float().square().mean() for out in outs).backward()
        assert all(torch.isfinite(p.grad).all() for p in ours.parameters())


@pytest.mark.parametrize('settings', [dict(), dict(window_size=12, table_window_size=7), dict(padding='mask'),
                                      dict(window_size=12, table_window_size=7, resampling='geometric')], ids=str)
def test_the_host_never_waits(settings):
    ours = SwinPosTransformer(**MICRO, **settings).to(CUDA)
    image = torch.randn(2, 3, 61, 90, device=CUDA)
    attach_valid_sizes(image, [(61, 90), (50, 40)])
    sum(out.sum() for out in ours(image)).backward()  # plans are cached from here on
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode('error')
    try:
        sum(out.sum() for out in ours(image)).backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.slow
def test_compiled_equals_eager():
    _, ours = on_cuda(**MICRO)
    compiled = torch.compile(ours, dynamic=True, fullgraph=True)
    for size in SIZES:
        image = torch.randn(2, 3, *size, device=CUDA)
        with torch.no_grad():
            for got, want in zip(compiled(image), ours(image)):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_more_windows_than_an_axis_of_a_grid_has_blocks(dtype):
    theirs, ours = on_cuda(
        embed_dims=32, depths=(2, ), num_heads=(1, ), strides=(4, ), out_indices=(0, ), window_size=2)
    image = torch.randn(1, 3, 2080, 2080, device=CUDA)
    found = []
    for model in (ours, theirs):
        with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
            found.append(_gradients(model, image))
    (outs, grads), (want_outs, want) = found
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    assert (outs[0] - want_outs[0]).float().norm() <= tolerance * want_outs[0].float().norm()
    for name, grad in want.items():
        assert (grads[name] - grad).norm() <= tolerance * grad.norm().clamp(min=0.01), name


def _peak(step: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


@pytest.mark.parametrize('window', [7, 12, 16])
@pytest.mark.parametrize('train', [False, True])
def test_needs_less_memory_than_mmdets(window, train):
    peaks = []
    for model in on_cuda(window_size=window):
        model.train(train)
        image = torch.randn(2, 3, 512, 512, device=CUDA)

        def step(model: nn.Module = model, image: Tensor = image) -> None:
            with torch.set_grad_enabled(train):
                outs = model(image)
            if train:
                sum(out.square().mean() for out in outs).backward()
                model.zero_grad(set_to_none=True)

        step()
        peaks.append(_peak(step))
    theirs, ours = peaks
    assert ours < theirs, f'{ours:.0f} MiB, mmdet {theirs:.0f} MiB'


def test_memory_stays_bounded_over_sizes():
    ours = SwinPosTransformer(**MICRO).to(CUDA).eval()
    rng = random.Random(0)
    sizes = [(rng.randrange(100, 320, 4), rng.randrange(100, 320, 4)) for _ in range(200)]
    with torch.no_grad():
        for size in [(316, 316)] * MAX_CACHED_PLANS + sizes[:20]:
            ours(torch.randn(1, 3, *size, device=CUDA))
        before = torch.cuda.memory_allocated()
        for size in sizes:
            ours(torch.randn(1, 3, *size, device=CUDA))
    assert torch.cuda.memory_allocated() - before < 32 * MIB


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['train', 'inference'])
def test_a_detector_runs(tmp_path, mode):
    from swin_pos_det.analysis.benchmark.detector import DetectorCell, write_detector_weights
    config = 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'
    write_detector_weights(config, str(tmp_path / 'weights.pth'))
    # MMCV's RoIAlign has no bfloat16 on CUDA.
    case = dict(mode=mode, config=config, size=(256, 256), batch=2, dtype='fp16')
    cell = DetectorCell('ours', case, str(tmp_path / 'weights.pth'), 'cuda')
    parts = cell.breakdown()
    assert parts['backbone, forward'] > 0
    assert mode == 'train' or cell.found > 0
