"""The export refuses unsupported detectors in one line that names the part."""
from __future__ import annotations

import pytest

from swin_pos_det.deployment.exportable import check_exportable, pipeline_resize
from tests.test_deployment.detectors import tiny_config


@pytest.mark.parametrize(('kind', 'settings', 'message'), [
    ('mask_rcnn', dict(backbone=dict(window_policy='fit')), "window_policy='fit' chooses windows by the size"),
    ('mask_rcnn', dict(roi_head=dict(bbox_roi_extractor=dict(type='GenericRoIExtractor', finest_scale=None))),
     'roi_head.bbox_roi_extractor of the detector is a GenericRoIExtractor, which cannot be exported: the export '
     'supports SingleRoIExtractor and subclasses that keep its prediction methods'),
    ('mask_rcnn', dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='RoIPool', sampling_ratio=None)))),
     'roi_head.bbox_roi_extractor.roi_layer of the detector is a RoIPool'),
    ('mask_rcnn', dict(roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(pool_mode='max')))),
     "roi_head.mask_roi_extractor.roi_layer must have pool_mode='avg'"),
    ('mask_rcnn', dict(roi_head=dict(type='DoubleHeadRoIHead', reg_roi_scale_factor=1.3)),
     'roi_head of the detector is a DoubleHeadRoIHead'),
    ('mask_rcnn', dict(test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms')))), 'roi_head.test_cfg.nms is .*soft_nms'),
    ('mask_rcnn', dict(rpn_head=dict(bbox_coder=dict(type='TBLRBBoxCoder', target_means=None, target_stds=None))),
     'rpn_head.bbox_coder of the detector is a TBLRBBoxCoder'),
    ('mask_rcnn', dict(roi_head=dict(bbox_head=dict(bbox_coder=dict(add_ctr_clamp=True)))),
     'roi_head.bbox_head.bbox_coder.add_ctr_clamp=True'),
    ('retinanet', dict(test_cfg=dict(min_bbox_size=4)), 'min_bbox_size=4 is in pixels of the original image'),
    ('retinanet', dict(bbox_head=dict(type='FCOSHead', bbox_coder=None, anchor_generator=None,
                                      norm_cfg=dict(type='BN'))),
     'bbox_head.anchor_generator of the detector is a MlvlPointGenerator'),
    ('retinanet', dict(backbone=dict(in_channels=4)), 'backbone.in_channels is 4'),
])
def test_what_cannot_be_exported_is_named(kind, settings, message):
    cfg = tiny_config(kind, **settings)
    remove_none(cfg.model)
    with pytest.raises(ValueError, match=message):
        check_exportable(tiny_detector_of(cfg))


def remove_none(settings):
    for name, value in list(settings.items()):
        if isinstance(value, dict):
            remove_none(value)
        elif value is None and name != 'train_cfg':
            del settings[name]


def tiny_detector_of(cfg):
    from mmdet.registry import MODELS as registry
    return registry.build(cfg.model)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(type='Pad', size_divisor=32), 'the test pipeline is LoadImageFromFile, Resize, Pad, PackDetInputs'),
    (None, 'it may have one Resize'),
])
def test_a_pipeline_that_a_file_cannot_hold(change, message):
    cfg = tiny_config('mask_rcnn')
    steps = cfg.test_dataloader.dataset.pipeline
    assert pipeline_resize(cfg) == dict(scale=[96, 64], keep_ratio=True)
    cfg.test_dataloader.dataset.pipeline = [*steps[:2], change, *steps[2:]] if change else [steps[0], steps[2]]
    with pytest.raises(ValueError, match=message):
        pipeline_resize(cfg)
    for wrong in (dict(scale_factor=2.), dict(interpolation='area'), dict(backend='pillow')):
        wrong.setdefault('scale', None if 'scale_factor' in wrong else (9, 9))
        cfg.test_dataloader.dataset.pipeline = [steps[0], dict(type='Resize', **wrong), steps[2]]
        with pytest.raises(ValueError, match='bilinear'):
            pipeline_resize(cfg)
