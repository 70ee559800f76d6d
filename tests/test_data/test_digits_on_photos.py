"""The embedded data set's files: their content, reproducibility, and safety under starts, stops and errors."""
from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from swin_pos_det.data import digits_root, make_digits_on_photos
from swin_pos_det.data.digits import sources as digit_sources
from swin_pos_det.data.digits.preview import preview_sheet
from swin_pos_det.data.digits.scenes import CROWD_AT, CYCLE, EMPTY_AT, MASK_LEVEL, render_digit
from swin_pos_det.data.digits.sources import PHOTOS, TRAIN_PHOTOS, find_photo, load_photos, load_scans
from swin_pos_det.errors import MissingPackageError

SPLITS = ('train', 'val')
FORK = multiprocessing.get_context('fork')


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def visible_leftovers(root: Path) -> list[str]:
    """Return what lies beside a data set, except its lock."""
    return sorted({path.name for path in root.parent.iterdir()} - {root.name, f'.{root.name}.lock'})


@pytest.fixture(scope='module', params=SPLITS)
def coco(request, small_digits) -> COCO:
    api = COCO(small_digits / 'annotations' / f'{request.param}.json')
    api.folder = small_digits / request.param
    return api


def test_format_is_cocos(coco):
    assert set(coco.dataset) == {'info', 'licenses', 'images', 'annotations', 'categories'}
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list('0123456789')
    assert len(coco.anns) == len(coco.dataset['annotations']) > 0
    assert min(coco.anns) >= 1  # COCOeval takes id 0 for "unmatched"
    license_ids = {entry['id'] for entry in coco.dataset['licenses']}
    for info in coco.dataset['images']:
        with Image.open(coco.folder / info['file_name']) as image:
            assert image.size == (info['width'], info['height'])
            assert image.mode == 'RGB'
        assert info['license'] in license_ids


def test_boxes_and_areas_are_the_masks(coco):
    for annotation in coco.anns.values():
        info = coco.imgs[annotation['image_id']]
        mask = coco.annToMask(annotation)
        assert mask.shape == (info['height'], info['width'])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert annotation['bbox'] == box
        assert annotation['area'] == mask.sum()


def test_no_pixel_belongs_to_two_and_something_is_covered(coco):
    shares = []
    for image_id in coco.imgs:
        annotations = coco.imgToAnns[image_id]
        if annotations:
            assert sum(coco.annToMask(annotation).astype(int) for annotation in annotations).max() == 1
        shares += [annotation['area'] / annotation['full_area'] for annotation in annotations]
    assert min(shares) >= 1 / 3
    assert min(shares) < .9
    assert max(shares) == 1


def test_image_sizes_vary_within_their_limits(coco):
    sides = np.array([(info['width'], info['height']) for info in coco.dataset['images']])
    assert sides.max(1).min() >= 192
    assert sides.max() <= 288
    aspects = sides[:, 0] / sides[:, 1]
    assert aspects.max() <= 2.02
    assert aspects.min() >= .495
    assert aspects.max() > 1.3
    assert aspects.min() < 1 / 1.3


def test_whole_digits_are_16_to_128_px(coco):
    whole = [annotation for annotation in coco.anns.values()
             if annotation['area'] == annotation['full_area'] and not annotation['iscrowd']]
    sides = [max(annotation['bbox'][2:]) for annotation in whole]
    assert min(sides) >= 16
    assert max(sides) <= 128
    assert max(sides) > 2 * min(sides)


@pytest.mark.parametrize('size', [18, 126])
def test_every_scan_keeps_the_size_limits(size):
    for split in SPLITS:
        for index, scan in enumerate(load_scans(split).images[::5]):
            angle, slant = [(-12, -.15), (0, 0), (12, .15), (-12, .15), (12, -.15)][index % 5]
            mask = render_digit(scan, size, angle, slant, stretch=(.85, 1.2)[index % 2]) >= MASK_LEVEL
            assert 16 <= max(mask.any(0).sum(), mask.any(1).sum()) <= 128


def test_empty_images_and_crowds(coco):
    per_image = {image_id: coco.imgToAnns[image_id] for image_id in sorted(coco.imgs)}
    kinds = ['empty' if not annotations else 'crowd' if any(a['iscrowd'] for a in annotations) else 'plain'
             for annotations in per_image.values()]
    expected = {EMPTY_AT: 'empty', CROWD_AT: 'crowd'}
    assert kinds == [expected.get(index % CYCLE, 'plain') for index in range(len(kinds))]
    assert Counter(kinds)['empty'] == Counter(kinds)['crowd'] == 1
    for annotation in coco.anns.values():
        assert len(annotation['scans']) > 10 if annotation['iscrowd'] else len(annotation['scans']) == 1


def test_labels_are_the_scans(coco, request):
    from sklearn.datasets import load_digits
    target = load_digits().target
    for annotation in coco.anns.values():
        assert {target[scan] + 1 for scan in annotation['scans']} == {annotation['category_id']}


def test_digits_stand_out_from_the_photograph(coco):
    """A digit's mask lies on its digit: just inside it looks unlike just outside."""
    differences = []
    for image_id, info in coco.imgs.items():
        pixels = np.asarray(Image.open(coco.folder / info['file_name'])).astype(float)
        for annotation in coco.imgToAnns[image_id]:
            if annotation['iscrowd'] or annotation['area'] < annotation['full_area']:
                continue
            mask = coco.annToMask(annotation).astype(bool)
            inside = Image.fromarray(mask)
            x, y, w, h = (int(v) for v in annotation['bbox'])
            box = np.s_[y:y + h, x:x + w]
            assert inside.getbbox() == (x, y, x + w, y + h)
            differences.append(np.abs(pixels[box][mask[box]].mean(0) - pixels[box][~mask[box]].mean(0)).max())
    assert np.median(differences) > 60
    assert np.mean(np.array(differences) > 25) > .9


def test_train_and_val_share_neither_scans_nor_photographs(small_digits):
    apis = [COCO(small_digits / 'annotations' / f'{split}.json') for split in SPLITS]
    scans = [{scan for annotation in api.anns.values() for scan in annotation['scans']} for api in apis]
    photos = [{info['photo'] for info in api.imgs.values()} for api in apis]
    assert all(scans)
    assert all(photos)
    assert not scans[0] & scans[1]
    assert not photos[0] & photos[1]


def test_the_pools_are_disjoint_and_complete():
    train, val = load_scans('train'), load_scans('val')
    assert sorted([*train.indices, *val.indices]) == list(range(1797))
    assert set(val.labels) == set(range(10))
    assert not set(PHOTOS['train']) & set(PHOTOS['val'])
    contents = [photo.tobytes() for split in SPLITS for photo in load_photos(split)]
    assert len(set(contents)) == len(contents) == 16


def test_made_twice_is_the_same_to_the_byte(small_digits, tmp_path):
    again = make_digits_on_photos(tmp_path / 'again', 24, 24, progress=False)
    assert files_of(again) == files_of(small_digits)


def test_more_images_do_not_change_the_first(small_digits, tmp_path):
    fewer = make_digits_on_photos(tmp_path / 'fewer', 7, 1, progress=False)
    few, many = (json.loads((root / 'annotations/train.json').read_text()) for root in (fewer, small_digits))
    assert few['images'] == many['images'][:7]
    assert few['annotations'] == many['annotations'][:len(few['annotations'])]
    assert (fewer / 'train/000006.jpg').read_bytes() == (small_digits / 'train/000006.jpg').read_bytes()


def test_another_seed_makes_other_data(small_digits, tmp_path):
    other = make_digits_on_photos(tmp_path / 'other', 2, 2, seed=1, progress=False)
    assert (other / 'train/000000.jpg').read_bytes() != (small_digits / 'train/000000.jpg').read_bytes()


def test_a_made_data_set_is_left_alone(small_digits):
    before = {path: path.stat().st_mtime_ns for path in small_digits.rglob('*')}
    assert make_digits_on_photos(small_digits, progress=False) == small_digits
    assert make_digits_on_photos(small_digits, 24, 24, seed=0, progress=False) == small_digits
    assert {path: path.stat().st_mtime_ns for path in small_digits.rglob('*')} == before


def test_four_processes_at_once(small_digits, tmp_path):
    root = tmp_path / 'deep' / 'digits'
    workers = [FORK.Process(target=make_digits_on_photos, args=(root, 24, 24), kwargs={'progress': False})
               for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert files_of(root) == files_of(small_digits)
    assert visible_leftovers(root) == []


def test_four_processes_where_files_cannot_be_locked(small_digits, tmp_path, monkeypatch):
    monkeypatch.setattr('swin_pos_det.data.digits.on_photos.fcntl', None)
    test_four_processes_at_once(small_digits, tmp_path)


def test_a_killed_run_leaves_nothing_half_made(small_digits, tmp_path):
    root = tmp_path / 'digits'
    worker = FORK.Process(target=make_digits_on_photos, args=(root, 5000, 24), kwargs={'progress': False})
    worker.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob('.digits.making-*/new/train/000003.jpg')):
        assert worker.is_alive()
        assert time.monotonic() < deadline
        time.sleep(.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    assert not root.exists()
    assert len(visible_leftovers(root)) == 1
    make_digits_on_photos(root, 24, 24, progress=False)
    assert files_of(root) == files_of(small_digits)
    assert visible_leftovers(root) == []


def test_failing_halfway_cleans_up(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='cannot make the data set.*No space left'):
        make_digits_on_photos(tmp_path / 'digits', 2, 2, progress=False)
    assert visible_leftovers(tmp_path / 'digits') == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'digits').mkdir()
    root = make_digits_on_photos(tmp_path / 'digits', 2, 1, progress=False)
    assert (root / 'val/000000.jpg').is_file()


def test_other_parameters_are_an_error_and_force_remakes(tmp_path):
    root = make_digits_on_photos(tmp_path / 'digits', 2, 1, progress=False)
    with pytest.raises(ValueError, match='num_train=2, not 3; seed=0, not 4.*--force'):
        make_digits_on_photos(root, num_train=3, seed=4, progress=False)
    make_digits_on_photos(root, num_train=3, num_val=1, seed=4, force=True, progress=False)
    assert json.loads((root / 'dataset.json').read_text())['num_train'] == 3
    assert len(list((root / 'train').iterdir())) == 3
    assert visible_leftovers(root) == []


def test_another_version_is_an_error_and_force_remakes(tmp_path, monkeypatch):
    root = make_digits_on_photos(tmp_path / 'digits', 2, 1, progress=False)
    monkeypatch.setattr('swin_pos_det.data.digits.on_photos.VERSION', 999)
    with pytest.raises(ValueError, match='version=1, not 999'):
        make_digits_on_photos(root, progress=False)
    make_digits_on_photos(root, 1, 1, force=True, progress=False)
    assert json.loads((root / 'dataset.json').read_text())['version'] == 999


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('content', ['notes.txt', 'dataset.json'])
def test_other_peoples_files_are_never_touched(tmp_path, content, force):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / content).write_text('{}')
    with pytest.raises(FileExistsError, match='pass (a new|another)'):
        make_digits_on_photos(tmp_path / 'mine', 2, 1, force=force, progress=False)
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == [content]


@pytest.mark.parametrize(('arguments', 'error', 'message'), [
    ({'num_train': 0}, ValueError, 'num_train must be at least 1, got 0'),
    ({'num_val': -3}, ValueError, 'num_val must be at least 1, got -3'),
    ({'seed': -1}, ValueError, 'seed must be at least 0, got -1'),
    ({'num_train': 2.5}, TypeError, 'num_train must be a whole number, got 2.5'),
    ({'seed': True}, TypeError, 'seed must be a whole number, got True'),
])
def test_bad_parameters(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        make_digits_on_photos(tmp_path / 'digits', **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='cannot make the data set at .*SWIN_POS_DET_DATA'):
        make_digits_on_photos(tmp_path / 'file' / 'digits', 1, 1, progress=False)
    with pytest.raises(FileExistsError, match='is a file; pass a folder'):
        make_digits_on_photos(tmp_path / 'file', 1, 1, progress=False)


def test_a_missing_photograph_is_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(digit_sources.PHOTO_FOLDERS, 'skimage', 'nowhere')
    with pytest.raises(FileNotFoundError, match='scikit-image does not ship the photograph astronaut.png'):
        make_digits_on_photos(tmp_path / 'digits', 1, 1, progress=False)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(MissingPackageError, match=r'scikit-learn, which is not installed: pip install .*\[demo\]'):
        find_photo(TRAIN_PHOTOS[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('load', [load_scans, load_photos])
def test_unknown_split(load):
    with pytest.raises(ValueError, match="one of .'train', 'val'., got 'test'"):
        load('test')


def test_where_the_data_goes_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv('SWIN_POS_DET_DATA', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert digits_root() == tmp_path / 'cache/swin-pos-det/data/digits_on_photos-v1-400-100-seed0'
    assert digits_root('', seed=3) != digits_root(None, seed=4)
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert digits_root().parent == tmp_path / 'home/.cache/swin-pos-det/data'
    monkeypatch.setenv('SWIN_POS_DET_DATA', str(tmp_path / 'here'))
    assert digits_root(num_train=7).parent == tmp_path / 'here'
    monkeypatch.chdir(tmp_path)
    assert digits_root('mine') == tmp_path / 'mine'


def test_preview_shows_images_and_their_masks(small_digits):
    sheet = preview_sheet(small_digits, 'val', num_images=3, width=900, row_height=100)
    assert sheet.shape[0] >= 100
    pixels = sheet[:100]
    width = json.loads((small_digits / 'annotations/val.json').read_text())['images'][0]
    width = round(width['width'] * 100 / width['height'])
    plain, marked = pixels[:, :width].astype(int), pixels[:, width:2 * width].astype(int)
    assert np.abs(plain - marked).max() > 50
    with pytest.raises(FileNotFoundError, match='no data set of digits'):
        preview_sheet(small_digits / 'nowhere', 'val')
    with pytest.raises(ValueError, match='num_images must be at least 1, got 0'):
        preview_sheet(small_digits, 'val', num_images=0)
