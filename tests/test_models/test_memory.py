"""Thousands of image sizes: memory stays bounded, caches evict, results are those of an uncached model."""
from __future__ import annotations

import random
import resource

import pytest
import torch

from swin_pos_det.layers.windows import MAX_CACHED_PLANS, _cached_plan
from swin_pos_det.models import SwinPosTransformer

from .test_parity import MICRO, randomise

GROWTH_MB = 150  # 64 plans of these maps are below 60 MB; unbounded, 1,000 sizes would keep over 500 MB


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.slow
def test_a_thousand_sizes():
    rng = random.Random(0)
    sizes = rng.sample([(h, w) for h in range(100, 320, 4) for w in range(100, 320, 4)], 1000)
    model = SwinPosTransformer(**dict(MICRO, embed_dims=8, drop_path_rate=0.)).eval()
    randomise(model)
    with torch.no_grad():
        for size in [(316, 316)] * 3 + sizes[:MAX_CACHED_PLANS // 6 + 1]:  # the largest first, the cache full
            model(torch.randn(1, 3, *size))
        before = peak_mb()
        for i, size in enumerate(sizes):
            image = torch.randn(1, 3, *size)
            outs = model(image)
            if i % 50 == 0:
                _cached_plan.cache_clear()
                assert all(torch.equal(a, b) for a, b in zip(outs, model(image)))
    assert peak_mb() - before < GROWTH_MB
    assert _cached_plan.cache_info().currsize <= MAX_CACHED_PLANS
