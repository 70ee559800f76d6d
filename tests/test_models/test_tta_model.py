"""Test-time augmentation: boxes as mmdet's, masks as the mean over views."""
from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models import DetTTAModel
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate

from swin_pos_det.errors import UserError
from swin_pos_det.models import SwinPosTTAModel
from tests.test_deployment.detectors import tiny_detector
from tests.test_tools.conftest import ROOT, load_tool

TTA = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)
IDENTITY = dict(type='RandomFlip', prob=0.)


def flip(direction):
    return dict(type='RandomFlip', prob=1., direction=direction)


def pipeline(scales=((96, 64), ), flips=(IDENTITY, )):
    meta_keys = ('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    return Compose([dict(type='mmdet.LoadImageFromNDArray'), dict(type='TestTimeAug', transforms=[
        [dict(type='mmdet.Resize', scale=scale, keep_ratio=True) for scale in scales],
        [dict(step, type='mmdet.RandomFlip') for step in flips],
        [dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)]])])


def photo(seed, shape=(60, 90)):
    """Return an image with large blocks of colours."""
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((shape[0] // 4, shape[1] // 6, 1), np.uint8)))


def run(model, images, views):
    data = pseudo_collate([views(dict(img=image.copy(), img_id=index)) for index, image in enumerate(images)])
    with torch.no_grad():
        return model.test_step(data)


def plain(detector, images):
    """Return the detector's own predictions."""
    found = []
    for image in images:
        data = pipeline()(dict(img=image.copy(), img_id=0))
        with torch.no_grad():
            found += detector.test_step(dict(inputs=data['inputs'], data_samples=data['data_samples']))
    return [sample.pred_instances for sample in found]


@pytest.fixture(scope='module', params=['mask_rcnn', 'cascade_mask_rcnn'])
def detector(request):
    return tiny_detector(request.param)


def test_the_only_view_gives_the_detectors_own_results(detector):
    images = [photo(0), photo(1), photo(2)]
    wanted = plain(detector, images)
    state = dict(detector.roi_head.__dict__)
    model = SwinPosTTAModel(detector, TTA)
    found = [each.pred_instances for image in images for each in run(model, [image], pipeline())]
    assert detector.roi_head.__dict__ == state, 'the head has its own method again'
    assert sum(map(len, wanted)) > 5
    for got, want in zip(found, wanted):
        assert got.labels.tolist() == want.labels.tolist() and got.masks.shape == want.masks.shape
        torch.testing.assert_close(got.bboxes, want.bboxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=0)
        assert (got.masks != want.masks).float().mean() < 1e-3
        assert not len(got) or 0 < want.masks.float().mean() < 1


def test_boxes_are_mmdets(detector):
    """Those of the same detector without its mask head."""
    views = pipeline(((96, 64), (64, 48)), (IDENTITY, flip('horizontal')))
    images = [photo(0), photo(1)]
    boxes_only = copy.deepcopy(detector)
    boxes_only.roi_head.mask_head = None
    assert not boxes_only.roi_head.with_mask
    wanted = run(DetTTAModel(module=boxes_only, tta_cfg=ConfigDict(TTA)), images, views)
    for model in (SwinPosTTAModel(detector, TTA), SwinPosTTAModel(boxes_only, TTA)):
        for got, want in zip(run(model, images, views), wanted):
            got, want = got.pred_instances, want.pred_instances
            assert len(got) > 2 and got.labels.tolist() == want.labels.tolist()
            torch.testing.assert_close(got.bboxes, want.bboxes, rtol=0, atol=1e-4)
            torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-6)
            assert ('masks' in got) == (model.module is detector)


def test_masks_are_the_mean_of_the_views():
    """By a slow way of its own: each mask pasted in each view, and flipped back there as pixels."""
    detector = tiny_detector('mask_rcnn')
    flips = (IDENTITY, flip('horizontal'), flip('vertical'), flip('diagonal'))
    image, views = photo(3, (64, 96)), pipeline(flips=flips)
    found = run(SwinPosTTAModel(detector, TTA), [image], views)[0].pred_instances
    data, total = views(dict(img=image, img_id=0)), 0
    for inputs, sample in zip(data['inputs'], data['data_samples']):
        boxes, axes = found.bboxes.clone(), []
        if sample.flip and sample.flip_direction in ('horizontal', 'diagonal'):
            boxes[:, 0::2], axes = 96 - boxes[:, [2, 0]], [2]
        if sample.flip and sample.flip_direction in ('vertical', 'diagonal'):
            boxes[:, 1::2], axes = 64 - boxes[:, [3, 1]], [1, *axes]
        with torch.no_grad():
            batch = detector.data_preprocessor(dict(inputs=[inputs], data_samples=[sample]))['inputs']
            logits = detector.roi_head._mask_forward(detector.extract_feat(batch), bbox2roi([boxes]))['mask_preds']
        chosen = logits[range(len(found)), found.labels][:, None].sigmoid()
        total = total + _do_paste_mask(chosen, boxes, 64, 96, skip_empty=False)[0].flip(axes)
    wanted = total / len(flips) >= 0.5
    assert len(found) > 2 and wanted.sum() > 300
    assert (found.masks != wanted).sum() < 0.01 * wanted.sum()


def test_a_mirrored_image_gives_mirrored_results(detector):
    """With both views of a flip, an image and its mirror image are seen in the same two views."""
    views, image = pipeline(flips=(IDENTITY, flip('horizontal'))), photo(4, (64, 96))
    model = SwinPosTTAModel(detector, TTA)
    one, other = (run(model, [each], views)[0].pred_instances for each in (image, image[:, ::-1]))
    assert len(one) == len(other) > 2
    order = [(other.bboxes[:, [2, 1, 0, 3]] - (torch.tensor([96., 0, 96, 0]) - box * torch.tensor([1., -1, 1, -1]))
              ).abs().amax(1).add((other.labels != label) * 1e3).argmin().item()
             for box, label in zip(one.bboxes, one.labels)]
    assert sorted(order) == list(range(len(one)))
    torch.testing.assert_close(other.scores[order], one.scores, rtol=0, atol=1e-5)
    assert (other.masks[order].flip(2) != one.masks).float().mean() < 1e-3


def test_nothing_found(detector):
    quiet = copy.deepcopy(detector)
    quiet.roi_head.test_cfg.score_thr = 1.1
    for sample in run(SwinPosTTAModel(quiet), [photo(0), photo(1)], pipeline(flips=(IDENTITY, flip('horizontal')))):
        assert len(sample.pred_instances) == 0 and sample.pred_instances.masks.shape == (0, 60, 90)


def test_one_stage_detectors():
    views = pipeline(flips=(IDENTITY, flip('horizontal')))
    detector = tiny_detector('retinanet')
    got, want = (run(model, [photo(0)], views)[0].pred_instances for model in (
        SwinPosTTAModel(detector, TTA), DetTTAModel(module=detector, tta_cfg=ConfigDict(TTA))))
    assert len(got) > 2 and torch.equal(got.bboxes, want.bboxes) and torch.equal(got.scores, want.scores)
    original = detector.test_step

    def with_masks(data):
        samples = original(data)
        for sample in samples:
            sample.pred_instances.masks = torch.zeros(len(sample.pred_instances), 60, 90, dtype=torch.bool)
        return samples

    detector.test_step = with_masks
    with pytest.raises(UserError, match='two-stage detectors with a mask head.*this is a RetinaNet'):
        run(SwinPosTTAModel(detector, TTA), [photo(0)], views)


@pytest.mark.parametrize('own', [None, dict(type='DetTTAModel', tta_cfg=TTA), 'base'])
def test_the_tool_takes_this_model(own):
    cfg = Config.fromfile(ROOT / 'configs/swin_pos/mask-rcnn_swin-pos-t-p4-w7_fpn_1x_coco.py')
    base = Config.fromfile(ROOT / 'configs/_base_/tta.py')
    if own == 'base':
        cfg.merge_from_dict(base.to_dict())
    elif own:
        cfg.tta_model, cfg.tta_pipeline = ConfigDict(own), base.tta_pipeline
    detector = cfg.model
    cfg.model.backbone.pop('init_cfg', None)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter('always')
        load_tool('test.py').use_test_time_augmentation(cfg)
    assert len([each for each in noted if 'the config has no tta' in str(each.message)]) == (2 if own is None else 0)
    assert cfg.model.type.endswith('SwinPosTTAModel') and cfg.model.module == detector
    views = next(step for step in cfg.test_dataloader.dataset.pipeline if step.type.endswith('TestTimeAug')).transforms
    assert len(views[0]) * len(views[1]) == (2 if own is None else 6)
