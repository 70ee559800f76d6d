"""The table of odd images through predict and predict_files; detectors of other numbers of channels."""
from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from swin_pos_det.apis import ImageError, init_detector, predict, predict_files
from swin_pos_det.apis.pipeline import InputPipeline
from swin_pos_det.errors import SettingError

from .odd_images import ODD, PICTURE

BY_NAME = {odd.name: odd for odd in ODD}


def test_the_table():
    assert len(BY_NAME) == len(ODD) >= 20
    assert all(odd.mmdet for odd in ODD)


@pytest.fixture(scope='module')
def plain(detector):
    return predict(detector, [np.ascontiguousarray(PICTURE[..., ::-1])])[0].pred_instances


@pytest.mark.parametrize('name', BY_NAME)
def test_predict(detector, plain, tmp_path, name):
    odd = BY_NAME[name]
    made = odd.make(tmp_path / name)
    image = made if isinstance(made, np.ndarray) else tmp_path / name
    if odd.expected not in ('found', 'run'):
        with pytest.raises(ImageError, match=odd.expected):
            predict(detector, [image])
        return
    found, = predict(detector, [image])
    assert len(found.pred_instances) > 0 and torch.isfinite(found.pred_instances.bboxes).all()
    if odd.expected == 'found':
        torch.testing.assert_close(found.pred_instances.scores, plain.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.pred_instances.bboxes, plain.bboxes, rtol=0, atol=0.05)


def test_predict_files(detector, tmp_path):
    """All files of the table in one go: each is drawn and written, or skipped with its line."""
    (tmp_path / 'in').mkdir()
    files = []
    for odd in ODD:
        if not odd.name.startswith('array') and odd.name != 'missing.jpg':
            odd.make(tmp_path / 'in' / odd.name)
            files += [tmp_path / 'in' / odd.name] * (odd.name != 'folder.jpg')
    report = predict_files(detector, files, tmp_path / 'out', score_threshold=0., progress=False)
    skipped = {path.name: reason for path, reason in report.skipped.items()}
    for path in files:
        expected = BY_NAME[path.name].expected
        if expected in ('found', 'run'):
            assert path.name not in skipped
            assert cv2.imdecode(np.fromfile(tmp_path / 'out/vis' / path.name, np.uint8), cv2.IMREAD_COLOR) is not None
        else:
            assert re.search(expected, skipped[path.name]), skipped.get(path.name)
    assert report.images == len(files) - len(skipped) == len(json.loads(report.json.read_text())['images'])


def channels_config(files, channels, color_type, preprocessor, **loader):
    cfg = Config.fromfile(files[0])
    cfg.model.backbone.in_channels = channels
    cfg.model.data_preprocessor.update(preprocessor)
    cfg.test_dataloader.dataset.pipeline[0].update(dict(color_type=color_type, **loader))
    return cfg


@pytest.mark.parametrize(('channels', 'color_type', 'preprocessor'), [
    (1, 'grayscale', dict(mean=[100.], std=[50.], bgr_to_rgb=False)),
    (1, 'grayscale', dict(type='SwinPosDataPreprocessor', mean=[100.], std=[50.], bgr_to_rgb=True)),
    (4, 'unchanged', dict(type='SwinPosDataPreprocessor', mean=[1., 2., 3., 4.], std=[5., 6., 7., 8.])),
    (4, 'unchanged', dict(mean=[100.], std=[50.], bgr_to_rgb=False)),
])
def test_files_arrays_and_frames_are_alike_for_any_number_of_channels(files, tmp_path, channels, color_type,
                                                                      preprocessor):
    model = init_detector(channels_config(files, channels, color_type, preprocessor), device='cpu')
    image = np.ascontiguousarray(PICTURE[..., ::-1]) if channels == 1 else np.dstack([PICTURE, PICTURE[..., :1] // 2])
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    from_file, from_array = (InputPipeline(model).read(given) for given in (tmp_path / 'image.png', image))
    assert from_file.shape == from_array.shape and from_file.dtype == from_array.dtype
    assert np.abs(from_file.astype(int) - from_array).max() <= (1 if channels == 1 else 0), 'grey is rounded by format'
    assert all(len(found.pred_instances) for found in predict(model, [tmp_path / 'image.png', image]))
    writer = cv2.VideoWriter(str(tmp_path / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10., (128, 96))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write videos')
    writer.write(np.ascontiguousarray(PICTURE))
    writer.release()
    report = predict_files(model, [tmp_path / 'image.png', tmp_path / 'film.avi'], tmp_path / 'out', progress=False,
                           score_threshold=0.)
    if channels == 1:
        assert (report.images, report.skipped) == (2, {})
        assert (tmp_path / 'out/vis/film.mp4').is_file()
    else:
        assert 'has 3 channels, the detector takes 4' in report.skipped[tmp_path / 'film.avi']
    assert (tmp_path / 'out/vis/image.png').is_file()


def test_16_bits_stay_where_the_config_keeps_them(files, tmp_path):
    deep = PICTURE.astype(np.uint16) * 200
    cv2.imwrite(str(tmp_path / 'deep.png'), deep)
    model = init_detector(channels_config(files, 3, 'unchanged', dict(mean=[20000.] * 3, std=[9000.] * 3),
                                          to_float32=True), device='cpu')
    from_file, from_array = predict(model, [tmp_path / 'deep.png', deep])
    assert torch.equal(from_file.pred_instances.scores, from_array.pred_instances.scores)
    shifted, = predict(model, [deep >> 8])
    assert not torch.equal(from_file.pred_instances.scores, shifted.pred_instances.scores)


def test_a_file_per_channel(files, tmp_path):
    cfg = channels_config(files, 5, 'unchanged', dict(mean=[100.], std=[50.], bgr_to_rgb=False))
    cfg.test_dataloader.dataset.pipeline[0].type = 'LoadMultiChannelImageFromFiles'
    model = init_detector(cfg, device='cpu')
    bands = np.dstack([PICTURE, PICTURE[..., :2] // 2])
    for scene in ('one', 'two'):
        (tmp_path / scene).mkdir()
        for band in range(5):
            cv2.imwrite(str(tmp_path / scene / f'{band}.png'), bands[..., band])
    paths = [tmp_path / 'one' / f'{band}.png' for band in range(5)]
    found = predict(model, [paths, tmp_path / 'one', bands])
    assert all(torch.equal(found[0].pred_instances.scores, each.pred_instances.scores) for each in found[1:])
    report = predict_files(model, str(tmp_path / '*'), tmp_path / 'out', progress=False)
    assert [image['file_name'] for image in json.loads(report.json.read_text())['images']] == ['one', 'two']
    assert cv2.imread(str(tmp_path / 'out/vis/one.png')).shape == PICTURE.shape
    paths[4].unlink()
    with pytest.raises(ImageError, match='one has 4 channels, the detector takes 5'):
        predict(model, [tmp_path / 'one'])
    with pytest.raises(ImageError, match='4.png does not exist'):
        predict(model, [paths])


@pytest.mark.parametrize(('channels', 'preprocessor', 'message'), [
    (1, {}, 'in_channels is 1, but bgr_to_rgb .* works on 3 channels'),
    (4, {}, "in_channels is 4, but bgr_to_rgb .* or use type='SwinPosDataPreprocessor'"),
    (4, dict(bgr_to_rgb=False), 'mean has 3 values, but model.backbone.in_channels is 4: give mean and std 1 or 4'),
    (1, dict(type='SwinPosDataPreprocessor'), 'mean has 3 values, but model.backbone.in_channels is 1'),
    (4, dict(type='SwinPosDataPreprocessor', mean=[1., 2.], std=[1.]), 'same number of values, got 2 and 1'),
])
def test_channels_that_cannot_fit(files, channels, preprocessor, message):
    with pytest.raises(SettingError, match=message):
        init_detector(channels_config(files, channels, 'color', preprocessor), device='cpu')
