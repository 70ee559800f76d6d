"""Thousands of image sizes: memory stays bounded, caches evict, results are those of an uncached model."""
from __future__ import annotations

import random
import resource

import pytest
import torch
import torch.multiprocessing as mp

from swin_pos_det.models import SwinPosTransformer
from swin_pos_det.ops.cpu_inference import chunks
from swin_pos_det.ops.windows import MAX_CACHED_PLANS, build_plan, window_plan
from tests.models import MICRO, randomise

GROWTH_MB = 85  # measured: 56 to 59 MB, of the allocator; 110 MB with a cache without bound


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _thousand_sizes(rank: int) -> None:
    chunks.MIN_NUMBERS = 1  # so that small maps go the way of large ones, which keeps more
    rng = random.Random(0)
    sizes = rng.sample([(h, w) for h in range(60, 200, 4) for w in range(60, 200, 4)], 1000)
    torch.manual_seed(0)
    model = SwinPosTransformer(**dict(MICRO, embed_dims=8, drop_path_rate=0.)).eval()
    randomise(model)
    with torch.no_grad():
        for size in [(196, 196)] * 3 + sizes[:10]:  # the largest first, until the cache is full
            model(torch.randn(1, 3, *size))
        assert build_plan.cache_info().currsize == MAX_CACHED_PLANS
        before = peak_mb()
        for i, size in enumerate(sizes):
            image = torch.randn(1, 3, *size)
            outs = model(image)
            if i % 50 == 0:
                build_plan.cache_clear()
                assert all(torch.equal(a, b) for a, b in zip(outs, model(image)))
    assert build_plan.cache_info().currsize <= MAX_CACHED_PLANS
    growth = peak_mb() - before
    assert growth < GROWTH_MB, f'{growth:.0f} MB'


@pytest.mark.slow
def test_a_thousand_sizes():
    # In a process of its own: the peak of this one may have been reached by another test.
    mp.spawn(_thousand_sizes, nprocs=1)


@pytest.mark.parametrize('hide', [False, True])
def test_plans_are_kept_without_their_masks(hide):
    """A mask of every window takes N times the memory of the rest: 2 GB for 64 plans of window 32 at COCO's sizes."""
    plan = window_plan(2, (200, 336), (32, 32), (16, 16), torch.device('cpu'), hide)
    kept = [value for part in (plan, *plan.groups) for value in vars(part).values() if isinstance(value, torch.Tensor)]
    assert sum(value.numel() * value.element_size() for value in kept) < 8 * 2**20
    if not hide:
        made = [group.mask(torch.float32) for group in plan.groups if group.region is not None]
        assert sum(mask.numel() for mask in made) == 3 * 1024**2


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(),
                    reason='torch was built without oneDNN, which is then never called')
def test_onednn_meets_few_numbers_of_rows(monkeypatch):
    """It keeps code for each."""
    met, own = set(), torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise', lambda x, *rest: met.add(len(x)) or own(x, *rest))
    model = SwinPosTransformer(**dict(MICRO, embed_dims=8, depths=(2, ), num_heads=(2, ), strides=(4, ),
                                       out_indices=(0, ))).eval()
    rng = random.Random(0)
    with torch.no_grad():
        for _ in range(60):
            model(torch.randn(1, 3, rng.randrange(200, 500), rng.randrange(200, 500)))
    assert 1 < len(met) <= 5, met
