"""The cost of loading: every transform is counted, and compact masks give the same images."""
from __future__ import annotations

import pytest
from mmengine.config import Config

from swin_pos_det.analysis.benchmark.loader import LoaderCost, measure
from swin_pos_det.data.digits.on_photos import make_digits_on_photos
from tests.test_tools.conftest import ROOT, load_tool

NANO = ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-nano-p4-w7_fpn_digits.py'


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    make_digits_on_photos(root, num_train=4, num_val=2, seed=0)
    return root


def test_workers():
    cost = LoaderCost({}, total=40., mean=45., pickling=5., sent=0, image=0)
    assert cost.images_per_second == 20
    assert [cost.workers_for(step, 2) for step in (1000, 100, 90, 50)] == [1, 1, 2, 2]


def test_both_pipelines_are_measured(digits):
    cfg = Config.fromfile(NANO)
    cfg.train_dataloader.dataset.update(data_root=str(digits), num_train=4, num_val=2, seed=0)
    costs = measure(cfg, images=3)
    assert list(costs) == ['as configured', 'compact masks']
    plain, compact = costs.values()
    assert list(plain.transforms) == list(compact.transforms)
    assert 'LoadAnnotations' in plain.transforms
    assert min(plain.transforms.values()) > 0
    assert compact.sent < plain.sent / 10
    assert compact.image == plain.image


def test_the_tool_prints_a_table(digits, capsys):
    options = [f'train_dataloader.dataset.{key}={value}' for key, value in
               dict(data_root=digits, num_train=4, num_val=2, seed=0).items()]
    tool = load_tool('analysis_tools/benchmark_loader.py')
    assert tool.main([str(NANO), '--images', '2', '--step-ms', '1', '--cfg-options', *options]) == 0
    out = capsys.readouterr().out
    assert 'annotations sent, KB' in out
    assert 'workers for 2 images in 1 ms' in out
