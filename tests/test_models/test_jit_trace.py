"""``torch.jit.trace``, which MMEngine counts FLOPs through: mmdet's ``tools/analysis_tools/get_flops.py``."""
from __future__ import annotations

import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from swin_pos_det.models import SwinPosTransformer
from tests.models import MICRO, pair, randomise

pytestmark = pytest.mark.filterwarnings('ignore')  # of a trace's limits, and that torch.export is newer

# mmengine counts no scaled_dot_product_attention: the two products with an N x N matrix in mmdet's attention.
IMAGE = (3, 56, 56)


def flops(model) -> int:
    model.train(False)  # mmdet's .eval() returns None, and so may not be chained
    return get_model_complexity_info(model, IMAGE, show_table=False, show_arch=False)['flops']


def test_flops_are_those_of_mmdets_without_attention_products():
    theirs, ours = pair(**dict(MICRO, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1)))
    tokens, area = 14 * 14, 7 * 7
    products = sum(2 * 2 * (tokens // 4**stage) * area * 16 * 2**stage for stage in range(2))  # blocks, products
    assert flops(theirs) - flops(ours) == pytest.approx(products, rel=0.02)


@pytest.mark.parametrize('settings', [dict(), dict(window_size=12, table_window_size=7), dict(position='rope_mixed')],
                         ids=str)
def test_a_trace_serves_every_size_and_can_be_saved(tmp_path, settings):
    model = SwinPosTransformer(**dict(MICRO, **settings)).eval()
    randomise(model)
    torch.jit.trace(model, torch.randn(2, 3, 61, 90), check_trace=False).save(tmp_path / 'traced.pt')
    traced = torch.jit.load(tmp_path / 'traced.pt')
    for size in ((2, 3, 61, 90), (1, 3, 128, 128), (3, 3, 17, 200)):
        images = torch.randn(size)
        for got, want in zip(traced(images), model(images)):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
