"""Faster inference of detectors: equal with CUDA graphs (faked, see tests/fake_graphs.py), close in half precision."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from torch import nn

from swin_pos_det.engine.fast_inference import FastFeatures, FastInferenceHook, speed_up
from swin_pos_det.errors import SettingError, UserError
from swin_pos_det.models.data_preprocessor import attach_valid_sizes
from tests.fake_graphs import FakeDevice, images
from tests.models import micro, randomise
from tests.test_configs.tiny import shrink_model

ROOT = Path(__file__).parents[2]
SIZES = [(64, 90), (50, 96)]


@pytest.fixture(scope='module')
def built():
    """Build a small Mask R-CNN whose backbone hides padding."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py').model
    shrink_model(cfg)
    cfg.backbone.padding = 'mask'
    cfg.data_preprocessor.type = 'SwinPosDataPreprocessor'
    cfg.test_cfg.rcnn.update(score_thr=0., max_per_img=5)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    randomise(model.backbone)
    return model.eval()


@pytest.fixture
def detector(built):
    return copy.deepcopy(built)


def batch(seed=0):
    samples = [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.), img_id=number))
               for number, size in enumerate(SIZES)]
    return dict(inputs=[image[0] * 50 + 120 for image in (images(*size, seed=seed + size[0]) for size in SIZES)],
                data_samples=samples)


def found(model, seed=0):
    with torch.no_grad():
        return [sample.pred_instances for sample in model.test_step(batch(seed))]


def test_graphs_give_the_same_detections(detector):
    want = [found(detector, seed) for seed in range(4)]
    device = FakeDevice()
    detector.extract_feat = FastFeatures(detector, 8, graph_device=device)
    for seed in range(4):
        for got, expected in zip(found(detector, seed), want[seed]):
            assert len(got) == 5
            assert torch.equal(got.bboxes, expected.bboxes)
            assert torch.equal(got.masks, expected.masks)
    assert device.counts == (1, 3)


def test_valid_sizes_are_part_of_the_graph(detector):
    fast = FastFeatures(detector, 8, graph_device=FakeDevice())
    with torch.no_grad():
        for seed in range(3):
            for sizes in (SIZES, [(64, 96), (10, 10)], None):
                image = images(64, 96, batch=2, seed=seed)
                if sizes is not None:
                    attach_valid_sizes(image, sizes)
                want = detector.extract_feat(image)
                assert all(torch.equal(a, b) for a, b in zip(fast(image), want))
    assert len(fast.compute) == 3


@pytest.mark.parametrize('graphs', [0, 8])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(detector, dtype, graphs):
    image = images(64, 96, batch=2)
    attach_valid_sizes(image, SIZES)
    with torch.no_grad():
        want = detector.extract_feat(image)
        detector.extract_feat = FastFeatures(detector, graphs, dtype, FakeDevice())
        for _ in range(3):
            got = detector.extract_feat(image)
    assert {p.dtype for part in (detector.backbone, detector.neck) for p in part.parameters()} == {dtype}
    assert {p.dtype for part in (detector.rpn_head, detector.roi_head) for p in part.parameters()} == {torch.float32}
    for a, b in zip(got, want):
        assert a.dtype == torch.float32
        assert 0 < (a - b).norm() < (0.03 if dtype == torch.bfloat16 else 4e-3) * b.norm()
    for instances in found(detector):
        assert instances.bboxes.dtype == instances.scores.dtype == torch.float32
        assert len(instances) == 5


def test_speed_up_finds_the_detector_within(detector):
    speed_up(nn.ModuleDict(dict(module=detector)), half=True)
    assert detector.extract_feat.dtype == torch.bfloat16
    assert detector.backbone.norm0.weight.dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="CUDA graphs have no effect on the device 'cpu'"):
        speed_up(detector, cuda_graphs=True)


def test_the_hook_speeds_up_the_model_that_is_tested(detector):
    class Runner:
        model = detector

    FastInferenceHook(half='float16').before_test(Runner)
    assert detector.extract_feat.dtype == torch.float16
    with pytest.raises(SettingError, match='must be one of .*bfloat16.*float8'):
        FastInferenceHook(half='float8')


def test_a_model_without_a_detector_is_refused():
    with pytest.raises(SettingError, match='Linear has no mmdet detector'):
        speed_up(nn.Linear(1, 1), half=True)


def test_overflow_is_refused(detector):
    speed_up(detector, half='float16')
    found(detector)
    with torch.no_grad():
        detector.backbone.norm1.weight.mul_(6e4)
    with pytest.raises(UserError, match='features are not finite in float16: use --half bfloat16'):
        found(detector)


def test_batch_norms_stay_in_float32():
    class Detector(BaseModule):
        backbone, neck = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def extract_feat(self, x):
            return [self.neck(self.backbone(x))]

    detector = Detector().eval()
    fast = FastFeatures(detector, dtype=torch.bfloat16)
    assert detector.backbone.weight.dtype == torch.bfloat16
    assert detector.neck.running_var.dtype == torch.float32
    assert fast(images(8, 8))[0].dtype == torch.float32


SCHEMES = [dict(), dict(window_size=12, table_window_size=7), dict(position='absolute+relative'),
           dict(position='log_cpb', attention='cosine', norm_order='res-post', key_bias=False),
           dict(position='linear_cpb'), dict(position='rope_axial'), dict(position='rope_mixed+relative'),
           dict(position='peg'), dict(position='relative_only')]


@pytest.mark.parametrize('settings', SCHEMES, ids=str)
def test_half_precision_is_as_exact_as_autocast(settings):
    model = micro(**settings).eval()
    image = images(61, 90, batch=2)
    with torch.no_grad():
        want = model(image)
        with torch.autocast('cpu', torch.bfloat16):
            reference = model(image)
        half = copy.deepcopy(model).bfloat16()(image.bfloat16())
    for got, low, exact in zip(half, reference, want):
        assert got.dtype == torch.bfloat16
        assert (got - exact).norm() < 2 * (low - exact).norm() + 1e-3 * exact.norm()
