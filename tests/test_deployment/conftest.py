"""A file that several tests look at: exporting takes many seconds."""
from __future__ import annotations

import pytest
from mmengine.registry import DefaultScope

from swin_pos_det.deployment.detector_export import export_detector
from tests.test_deployment.detectors import tiny_detector


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """Export a tiny Mask R-CNN; return it, the path of its file, and what the export reported."""
    path = tmp_path_factory.mktemp('exported') / 'model.onnx'
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = tiny_detector('mask_rcnn')
        return detector, path, export_detector(detector, path)
