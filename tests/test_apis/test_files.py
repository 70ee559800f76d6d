"""Folders, patterns and videos in; pictures and a COCO file out; unreadable files are named."""
from __future__ import annotations

import json
import shutil

import cv2
import mmcv
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from swin_pos_det.apis import describe_ignored, files, find_inputs, inputs, predict, predict_files, writer
from swin_pos_det.errors import UserError

from .conftest import NAMES


def run(*args, score_threshold=0., **kwargs):
    return predict_files(*args, score_threshold=score_threshold, progress=False, **kwargs)


@pytest.fixture
def video(tmp_path, picture):
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10., (128, 96))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write videos')
    for shift in range(5):
        writer.write(np.ascontiguousarray(np.roll(picture[..., ::-1], 8 * shift, axis=1)))
    writer.release()
    return path


def test_a_folder(detector, save, picture, tmp_path):
    paths = [save(picture, 'b.png'), save(picture[:48], 'a.jpg'), save(picture[..., 0], 'c.bmp')]
    save(picture, 'deeper/d.png')
    (paths[0].parent / 'notes.txt').write_text('')
    report = run(detector, paths[0].parent, tmp_path / 'out', batch_size=2)
    assert (report.images, report.skipped) == (3, {})
    coco = COCO(str(report.json))
    assert [(image['file_name'], image['height'], image['width']) for image in coco.imgs.values()] == [
        ('a.jpg', 48, 128), ('b.png', 96, 128), ('c.bmp', 96, 128)]
    assert [category['name'] for category in coco.cats.values()] == list(NAMES)
    found, = predict(detector, [paths[0]])
    items = coco.imgToAnns[2]
    assert report.detections == len(coco.anns)
    assert len(items) == len(found.pred_instances)
    first, box = items[0], found.pred_instances.bboxes[0].tolist()
    assert first['category_id'] == int(found.pred_instances.labels[0]) + 1
    assert first['score'] == pytest.approx(float(found.pred_instances.scores[0]), abs=1e-4)
    assert first['bbox'] == pytest.approx([box[0], box[1], box[2] - box[0], box[3] - box[1]], abs=0.1)
    assert rle.decode(first['segmentation']).shape == (96, 128)
    for path in paths:
        drawn = mmcv.imread(str(tmp_path / 'out/vis' / path.name))
        plain = mmcv.imread(str(path))
        assert drawn.shape == plain.shape
        assert (np.abs(drawn.astype(int) - plain).max(2) > 60).mean() > 0.01


def test_the_threshold_holds_for_pictures_and_json(detector, save, picture, tmp_path):
    path = save(picture, 'a.png')
    report = run(detector, path, tmp_path / 'out', score_threshold=1.)
    assert report.detections == 0
    assert (mmcv.imread(str(tmp_path / 'out/vis/a.png')) == mmcv.imread(str(path))).all()


def test_damaged_files_are_named_and_skipped(detector, save, picture, tmp_path):
    good, bad = save(picture, 'b.png'), save(picture, 'a.jpg')
    bad.write_bytes(bad.read_bytes()[:400])
    (good.parent / 'c.mp4').write_text('no film')
    report = run(detector, good.parent, tmp_path / 'out', pictures=False)
    assert report.images == 1
    assert set(report.skipped) == {bad, good.parent / 'c.mp4'}
    assert all(str(path) in reason for path, reason in report.skipped.items())
    assert not (tmp_path / 'out/vis').exists()
    with pytest.raises(ValueError, match='none of the inputs can be read: .*a.jpg is (damaged|no image)'):
        run(detector, bad, tmp_path / 'nothing')
    assert not (tmp_path / 'nothing').exists()


def test_no_place_for_results(detector, save, picture, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='nothing can be written to .*file'):
        run(detector, save(picture, 'a.png'), tmp_path / 'file')


def test_an_image_that_cannot_be_prepared_is_skipped(detector, save, picture, tmp_path):
    paths = [save(picture, 'a.png'), save(np.zeros((2, 3000, 3), np.uint8), 'thin.png'), save(picture, 'z.png')]
    report = run(detector, paths, tmp_path / 'out', batch_size=3)
    assert (report.images, list(report.skipped)) == (2, [paths[1]])
    reason = report.skipped[paths[1]]
    assert 'thin.png' in reason and 'cannot prepare an image of 3000x2 pixels' in reason


def test_what_was_found_until_an_interruption_is_kept(detector, save, picture, tmp_path, monkeypatch):
    own, calls = files.predict_batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(files, 'predict_batch', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(detector, [save(picture, 'a.png'), save(picture, 'b.png')], tmp_path / 'out')
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [image['file_name'] for image in found['images']] == ['a.png']


def test_inputs_are_not_drawn_over(detector, save, picture, tmp_path):
    path = save(picture, 'vis/a.png')
    before = path.read_bytes()
    with pytest.raises(ValueError, match='would be written over an input'):
        run(detector, path, path.parents[1])
    assert path.read_bytes() == before


def test_a_truncated_video_is_said(detector, video, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, 'SHARE_OF_FRAMES', 1.5)  # as if it had said to hold more
    report = run(detector, video, tmp_path / 'out')
    assert report.images == 5 and 'ended after 5 of 5 frames' in report.skipped[video]


def test_a_video(detector, video, save, picture, tmp_path):
    report = run(detector, [save(picture, 'a.png'), video], tmp_path / 'out', batch_size=4)
    content = json.loads(report.json.read_text())
    assert [image.get('frame') for image in content['images']] == [None, 0, 1, 2, 3, 4]
    assert content['images'][2] == dict(id=3, file_name='film.avi/000001', width=128, height=96, video='film.avi',
                                        frame=1)
    assert {item['image_id'] for item in content['annotations']} == set(range(1, 7))
    made = mmcv.VideoReader(str(tmp_path / 'out/vis/film.mp4'))
    assert (len(made), made.width, made.height, made.fps) == (5, 128, 96, 10)
    assert np.abs(made[4].astype(int) - mmcv.VideoReader(str(video))[4]).max() > 60, 'detections are drawn'


def test_videos_of_one_name_but_for_the_ending(detector, video, tmp_path):
    shutil.copy(video, video.with_suffix('.mkv'))
    run(detector, [video, video.with_suffix('.mkv')], tmp_path / 'out')
    made = [mmcv.VideoReader(str(tmp_path / 'out/vis' / name)) for name in ('film.mp4', 'film.mkv.mp4')]
    assert [len(each) for each in made] == [5, 5]


def test_a_video_becomes_frames_without_an_encoder(detector, video, tmp_path, monkeypatch):
    class NoEncoder:
        def __init__(self, *args):
            pass

        def isOpened(self):
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, 'VideoWriter', NoEncoder)
    run(detector, video, tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out/vis/film').iterdir()) == [f'{n:06d}.png' for n in range(5)]


def test_inputs(tmp_path, monkeypatch):
    for name in ('one/x.jpg', 'one/sub/y.JPG', 'two/x.jpg', 'two/z.mp4', 'two/notes.txt', 'empty/sub/y.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')

    def names(*inputs):
        return list(find_inputs([str(tmp_path / given) for given in inputs]).values())

    assert names('one') == ['x.jpg']
    assert names('two') == ['x.jpg', 'z.mp4']
    assert names('one/*/*.JPG') == ['sub/y.JPG']
    assert names('one/**/*.[jJ]*') == ['sub/y.JPG', 'x.jpg']
    assert names('one/x.jpg', 'two/x.jpg') == ['one/x.jpg', 'two/x.jpg'], 'a name for each'
    assert names('one/x.jpg', 'one', 'one/x.jpg') == ['x.jpg'], 'each once'
    monkeypatch.chdir(tmp_path)
    assert list(find_inputs(['one/x.jpg', tmp_path / 'one/x.jpg']).values()) == ['x.jpg']
    assert names('two/notes.txt') == ['notes.txt'], 'a file that is named is tried'
    for given, message in [('empty', r'no images or videos; those of its subfolders: ".*empty/\*\*/\*.jpg"'),
                           ('nowhere', 'nowhere does not exist'), ('one/*.png', r'no file matches .*one/\*.png')]:
        with pytest.raises(ValueError, match=message):
            names(given)
    with pytest.raises(ValueError, match='no inputs'):
        find_inputs([])


def test_what_is_left_out_of_folders_is_said(tmp_path):
    for name in ('photos/a.jpg', 'photos/b.heic', 'photos/c.heic', 'photos/notes', 'photos/more/d.jpg', 'whole/e.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')
    line, = describe_ignored([tmp_path / 'photos', tmp_path / 'whole', tmp_path / 'photos/a.jpg'])
    assert 'left out files whose suffix is not that of an image or video (.heic: 2, without suffix: 1)' in line
    assert 'and subfolders (1; to search them: ' in line and 'photos/**/*.jpg' in line


def test_a_video_that_was_interrupted_leaves_no_half(detector, video, tmp_path, monkeypatch):
    own, calls = files.predict_batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(files, 'predict_batch', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(detector, video, tmp_path / 'out')
    assert list((tmp_path / 'out/vis').iterdir()) == []
    assert len(json.loads((tmp_path / 'out/predictions.json').read_text())['images']) == 2


def test_a_video_that_did_not_reach_the_disk_is_said(detector, video, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, '_count_readable', lambda path: 3)  # as on a full disk, of which OpenCV says nothing
    with pytest.raises(UserError, match='failed to write .*film.mp4: 3 of 5 frames arrived on the disk'):
        run(detector, video, tmp_path / 'out')
    assert list((tmp_path / 'out/vis').iterdir()) == []
    assert len(json.loads((tmp_path / 'out/predictions.json').read_text())['images']) == 5


def test_large_images_are_drawn_smaller(detector, save, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, 'MAX_PICTURE_SIDE', 64)
    report = run(detector, save(picture, 'a.png'), tmp_path / 'out')
    assert mmcv.imread(str(tmp_path / 'out/vis/a.png')).shape == (48, 64, 3)
    assert json.loads(report.json.read_text())['images'][0]['width'] == 128, 'the results are in pixels of the image'
