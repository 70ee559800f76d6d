"""Three functions from a config and a checkpoint to detections, which are mmdet's own."""
from __future__ import annotations

import copy
import os
import warnings

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

from swin_pos_det.apis import ImageError, init_detector, predict
from swin_pos_det.checkpoints import CheckpointError

from .conftest import NAMES


class Evil:

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}', )


def same(first, second, exact=True):
    first, second = first.pred_instances, second.pred_instances
    assert len(first) == len(second)
    assert first.labels.tolist() == second.labels.tolist()
    torch.testing.assert_close(first.bboxes, second.bboxes, **(dict(rtol=0, atol=0) if exact else {}))
    torch.testing.assert_close(first.scores, second.scores, **(dict(rtol=0, atol=0) if exact else {}))
    assert (torch.as_tensor(first.masks) != torch.as_tensor(second.masks)).float().mean() <= (0 if exact else 1e-3)


def test_predictions_are_mmdets(detector, save, picture):
    path = save(picture, 'a.png')
    ours, = predict(detector, [path])
    same(ours, inference_detector(detector, str(path)))
    found = ours.pred_instances
    assert len(found) == 8, 'the detector finds something'
    assert found.masks.shape == (8, 96, 128)
    assert found.masks.dtype == torch.bool
    assert 0 < found.masks.float().mean() < 1
    assert (found.bboxes >= 0).all()
    assert (found.bboxes <= torch.tensor([128, 96, 128, 96])).all()
    assert ours.img_path == str(path)
    same(predict(detector, [np.ascontiguousarray(picture[..., ::-1])])[0], ours)


def test_mmdets_inferencer_runs_this_backbone(files, detector, save, picture):
    paths = [str(save(picture, 'a.png')), str(save(picture[:, ::-1], 'b.png'))]
    inferencer = DetInferencer(model=str(files[0]), weights=str(files[1]), device='cpu', show_progress=False)
    assert type(inferencer.model.backbone).__name__ == 'SwinPosTransformer'
    theirs = inferencer(paths, return_datasamples=True, no_save_pred=True)['predictions']
    for sample, other in zip(predict(detector, paths), theirs):
        same(sample, other)


def test_mmdets_inferencer_refuses_what_would_run_code(files, tmp_path):
    weights = torch.load(files[1], weights_only=True)
    torch.save(dict(weights, meta=Evil(tmp_path / 'ran')), tmp_path / 'evil.pth')
    for build in (lambda: DetInferencer(model=str(files[0]), weights=str(tmp_path / 'evil.pth'), device='cpu'),
                  lambda: init_detector(files[0], tmp_path / 'evil.pth')):
        with pytest.raises(CheckpointError, match='asks for'):
            build()
    assert not (tmp_path / 'ran').exists()


def test_batches(detector, picture):
    images = [np.ascontiguousarray(image) for image in (picture, picture[::-1], picture[:, ::-1])]
    alone = predict(detector, images)
    for first, second in zip(alone, predict(detector, images, batch_size=2)):
        same(first, second, exact=False)
    assert alone[0].pred_instances.scores.tolist() != alone[1].pred_instances.scores.tolist()
    assert predict(detector, []) == []


def test_pipelines_may_name_classes_by_themselves(detector, picture):
    named = copy.deepcopy(detector)
    for step in named.cfg.test_dataloader.dataset.pipeline:
        step['type'] = TRANSFORMS.get(step['type'])
    same(predict(named, [picture])[0], predict(detector, [picture])[0])


def test_scores_below_the_threshold_are_left_out(detector, picture):
    every, = predict(detector, [picture])
    scores = every.pred_instances.scores
    threshold = float(scores[3])
    some, = predict(detector, [picture], score_threshold=threshold)
    assert some.pred_instances.scores.tolist() == scores[scores >= threshold].tolist()
    assert 4 <= len(some.pred_instances) < 8


def test_another_window(files, detector, picture):
    wide = init_detector(*files, device='cpu', window=12, window_policy='fit')
    assert wide.backbone.window_size == [(12, 12)] * 4
    built = init_detector(*files, device='cpu', cfg_options={
        'model.backbone.window_size': 12, 'model.backbone.table_window_size': 7,
        'model.backbone.window_policy': 'fit'})
    wide_found, = predict(wide, [picture])
    same(wide_found, predict(built, [picture])[0])
    assert wide_found.pred_instances.scores.tolist() != predict(detector, [picture])[0].pred_instances.scores.tolist()
    per_stage = init_detector(*files, device='cpu', window=[7, (7, 14), 14, 'global'])
    assert per_stage.backbone.window_size == [(7, 7), (7, 14), (14, 14), 'global']
    per_stage.backbone.set_window_size(7, 'fixed')
    same(predict(per_stage, [picture])[0], predict(detector, [picture])[0])


def test_names_of_the_classes(files, detector):
    assert tuple(detector.dataset_meta['classes']) == NAMES, "the checkpoint's"
    assert len(detector.dataset_meta['palette']) == 10
    assert tuple(init_detector(files[0], device='cpu').dataset_meta['classes']) == tuple('0123456789'), 'the test data'


def test_the_config_is_left_alone(files):
    cfg = Config.fromfile(files[0])
    before = cfg.pretty_text
    init_detector(cfg, device='cpu', cfg_options={'model.backbone.window_size': 12})
    assert cfg.pretty_text == before


def test_nothing_is_warned_about(files, picture):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        predict(init_detector(*files, device='cpu'), [picture])


def test_checkpoints_of_another_config(files, tmp_path):
    with pytest.raises(CheckpointError, match='not of this config: 2 of .* such as roi_head.bbox_head.fc_reg.weight: '
                                              r'\(40, 256\), needed \(4, 256\)'):
        init_detector(*files, device='cpu', cfg_options={'model.roi_head.bbox_head.reg_class_agnostic': True})
    weights = torch.load(files[1], weights_only=True)['state_dict']
    torch.save({key: value for key, value in weights.items() if key.startswith('backbone.')}, tmp_path / 'backbone.pth')
    with pytest.raises(CheckpointError, match='neck and heads are missing .* such as neck.*: missing'):
        init_detector(files[0], tmp_path / 'backbone.pth', device='cpu')
    with pytest.raises(CheckpointError, match='does not exist'):
        init_detector(files[0], tmp_path / 'none.pth', device='cpu')


def test_mistakes(files, detector, picture, tmp_path):
    with pytest.raises(ValueError, match='batch_size must be at least 1, got 0'):
        predict(detector, [picture], batch_size=0)
    with pytest.raises(ValueError, match=r'score_threshold must be in \[0, 1\], got 30'):
        predict(detector, [picture], score_threshold=30)
    with pytest.raises(TypeError, match='must be a list of them, got one ndarray'):
        predict(detector, picture)
    with pytest.raises(ImageError, match='none.jpg does not exist'):
        predict(detector, [tmp_path / 'none.jpg'])
    with pytest.raises(ValueError, match='window_size must be at least 1'):
        init_detector(files[0], window=0)
    with pytest.raises(ValueError, match='the backbone is a SwinTransformer, not a SwinPosTransformer'):
        init_detector(files[0], window=12, cfg_options={'model.backbone.type': 'SwinTransformer'})
    with pytest.raises(ValueError, match='no test_dataloader'):
        init_detector(Config(dict(model=dict())))
