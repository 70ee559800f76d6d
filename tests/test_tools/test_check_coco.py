"""check_coco.py: its counts, messages and repairs, for the table of odd inputs."""
from __future__ import annotations

import json
import math

import pytest
from mmcv import imread

from swin_pos_det.data.objects import Objects, learned
from swin_pos_det.data.repair import repair
from swin_pos_det.data.statistics import count_classes
from tests.test_data.odd_inputs import HEIGHT, ROWS, WIDTH, Scene, annotations

from .conftest import load_tool

ROWS_BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture(scope='module')
def tool():
    return load_tool('analysis_tools/check_coco.py')


@pytest.fixture
def check(tool, tmp_path, capsys):
    """Return a function that runs the tool on a changed scene's training data: exit status and output."""

    def run(change=lambda scene: None, *options, images=True):
        scene = Scene(tmp_path)
        change(scene)
        scene.write_all()
        status = tool.main([str(tmp_path / 'train.json'), *([str(tmp_path / 'train')] if images else []),
                            *map(str, options)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_nothing_is_wrong(check, tmp_path):
    status, out, _ = check(lambda scene: None, '--sheet', tmp_path / 'sheet.png', '--fix', tmp_path / 'new.json',
                           '--statistics', tmp_path / 'statistics.png')
    assert status == 0
    assert imread(str(tmp_path / 'statistics.png')).std() > 10
    assert 'nothing is wrong' in out
    assert 'nothing had to be repaired' in out
    assert json.loads((tmp_path / 'new.json').read_text()) == annotations('t')
    sheet = imread(str(tmp_path / 'sheet.png'))
    assert sheet.shape[0] >= 2 * 320 and sheet.std() > 10


# The tool's output for rows of the table, and its copy.
@pytest.mark.parametrize(('name', 'says', 'is_repaired'), [
    ('area 0 and crowds', '12 of 24 objects dropped: 8 of area 0, 4 crowd', True),
    ('boxes as shares', 'look like shares of the image', False),
    ('unknown images', '5 of images that the file does not have', True),
    ('image ids as text', 'no annotation belongs to one of the images', True),
    ('some image ids as text', '4 of images that', True),
    ('category ids as text', 'belongs to one of the categories', True),
    ('ids as text on both sides', "6 ids of images are no integers, such as '1'", True),
    ('polygons of two points', 'of at least 6 numbers', False),
    ('run lengths that do not add up', 'add up to 10 pixels', False),
    ('a byte order mark', 'with a byte order mark', True),
    ('UTF-16', 'is UTF-16', True),
    ('half a file', 'is not JSON', False),
    ('a list', 'holds a list', False),
    ('an annotation twice', '2 annotations have the id 1', True),
    ('an image twice', '2 images have the id 1', False),
    ('no area', 'has no area', True),
    ('an image is missing', '1 of the 6 images', False),
    ('backslashes', 'missing', False),
    ('an empty image', 'it is empty', False),
    ('a truncated image', 'it is truncated', False),
    ('width and height swapped', '6 of 6 images are not as the file says', True),
])
def test_odd_inputs(check, tmp_path, name, says, is_repaired):
    out_file = tmp_path / 'new.json'
    change = ROWS_BY_NAME[name].change
    status, out, err = check(change, '--fix', out_file)
    text = ' '.join((out + err).split())
    assert says in text
    assert status == (0 if is_repaired else 1)
    assert 'Traceback' not in text
    if is_repaired:
        assert text.endswith('nothing is wrong')
        content = json.loads(out_file.read_text())
        assert [item['id'] for item in content['annotations']] == list(range(1, len(content['annotations']) + 1))


@pytest.mark.parametrize('name', ['area 0 and crowds', 'an annotation twice', 'no area'])
def test_status_without_fix(check, name):
    assert check(ROWS_BY_NAME[name].change, images=False)[0] == 1


def test_crowds_are_no_fault(check):
    status, out, _ = check(lambda scene: scene.train['annotations'][0].update(iscrowd=1))
    assert status == 0
    assert '1 of 24 objects dropped: 1 crowd' in out


def test_annotation_id_0(check, tmp_path):
    """pycocotools treats a match with annotation 0 as none."""

    def change(scene):
        for item in scene.train['annotations']:
            item['id'] -= 1

    assert '1 ids of annotations are no integers above 0, such as 0' in check(change)[1]
    shifted = [dict(item, id=item['id'] - 1) for item in annotations('t')['annotations']]
    repaired, changes = repair(dict(annotations('t'), annotations=shifted), 'f')
    assert repaired == annotations('t')
    assert changes == ['24 annotations have new ids: they are 1 to 24']


def test_ids_that_are_words_are_numbered():
    content = annotations('t')
    for item in content['images']:
        item['id'] = f'image {item["id"]}'
    for item in content['annotations']:
        item['image_id'] = f'image {item["image_id"]}'
    repaired, changes = repair(content, 'f')
    assert repaired == annotations('t')
    assert changes == ['30 ids of images numbered from 1']
    assert content['images'][0]['id'] == 'image 1'


def test_unknown_ids_stay_unknown():
    """They must not become those of an image that is numbered."""
    content = annotations('t')
    for image, new in zip(content['images'], ('a', 2, '3', 4., 5.5, 2**60 + 1)):
        image['id'] = new
    references = ('a', 2., 3, '4', 5.5, 2**60 + 1, 1, 'b', 5)
    content['annotations'] = [dict(content['annotations'][0], image_id=value) for value in references]
    repaired, changes = repair(content, 'f')
    assert [item['image_id'] for item in repaired['annotations']] == [1, 2, 3, 4, 5, 6]
    assert '3 of 9 objects dropped: 3 of images that the file does not have (removed)' in changes


def test_large_ids_stay():
    content = annotations('t')
    for item, key in [(item, 'id') for item in content['images']] + [(a, 'image_id') for a in content['annotations']]:
        item[key] += 2**60
    assert repair(content, 'f') == (content, [])


def test_order_of_categories():
    content = dict(annotations('t'), categories=annotations('t')['categories'][::-1])
    by_id, changes = repair(content, 'f')
    assert [category['name'] for category in by_id['categories']] == ['cat', 'dog']
    assert 'categories are in the order cat, dog' in changes[0]
    by_name, changes = repair(content, 'f', classes=('dog', 'cat'))
    assert [category['name'] for category in by_name['categories']] == ['dog', 'cat']
    assert changes == []


def test_slashes_crowd_and_sizes(tmp_path):
    scene = Scene(tmp_path)
    scene.train['images'][0].update(file_name='train\\t0.jpg', height=WIDTH, width=HEIGHT)
    del scene.train['annotations'][0]['iscrowd']
    repaired, changes = repair(scene.train, 'f', str(tmp_path))
    assert repaired['images'][0] == dict(id=1, file_name='train/t0.jpg', height=HEIGHT, width=WIDTH)
    assert repaired['annotations'][0]['iscrowd'] == 0
    assert len(changes) == 3


def test_counts():
    content = annotations('t')
    content['categories'].append(dict(id=11, name='owl'))
    for item, side in zip(content['annotations'], (31, 32, 96, 0)):
        item.update(category_id=5, area=side**2)
    objects = Objects(content)
    cat, dog, owl = count_classes(objects, learned(objects)[0])
    assert (cat.name, cat.images, cat.objects, cat.learned) == ('cat', 6, 14, 13)
    assert (cat.small, cat.medium, cat.large, cat.side) == (11, 1, 1, 12)
    assert (dog.objects, dog.small) == (10, 10)
    assert owl.learned == 0 and math.isnan(owl.side)


@pytest.mark.parametrize(('options', 'message'), [
    (['nope.json'], 'nope.json does not exist'),
    (['train.json', 'nope'], 'there is no folder nope'),
    (['train.json', '--sheet', 'a.png'], '--sheet needs IMAGES'),
    (['train.json', '--classes', 'cat'], '--classes needs --fix'),
    (['train.json', '--fix', './train.json'], 'is the file itself'),
    (['train.json', '--fix', 'a.json', '--classes', 'cow'], "has no category named 'cow'"),
])
def test_errors_are_one_line(tool, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'train.json').write_text(json.dumps(annotations('t')))
    assert tool.main(options) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and message in line
    assert not (tmp_path / 'a.json').exists()
