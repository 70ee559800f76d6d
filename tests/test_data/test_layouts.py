"""Data sets in all layouts: the same objects are read from each, or one line says what is wrong."""
from __future__ import annotations

import json

import numpy as np
import pytest

from swin_pos_det.data.layouts import LayoutError, read_layout, split, use_same_classes
from swin_pos_det.data.layouts.parts import Part
from swin_pos_det.data.statistics import survey
from swin_pos_det.errors import MissingFileError

from . import folders


def rounded(polygon):
    """Round corners, of which many are at halves of pixels."""
    return np.round(np.array(polygon) + 0.27).tolist()


def read_objects(part):
    """Return (file stem, class, box, polygon) of all objects."""
    names = {category['id']: category['name'] for category in part.content['categories']}
    files = {image['id']: image['file_name'].rpartition('/')[2].split('.')[0] for image in part.content['images']}
    return sorted((int(files[item['image_id']]), names[item['category_id']], *np.round(item['bbox'], 1).tolist(),
                   rounded(item['segmentation'][0]) if item.get('segmentation') else [])
                  for item in part.content['annotations'])


def expected_objects(indices, masks):
    return sorted((index, folders.CLASSES[item[0]], *map(float, folders.box_of(item)),
                   rounded(folders.polygon_of(item)) if masks else [])
                  for index in indices for item in folders.objects_of(index))


@pytest.mark.parametrize('name', folders.LAYOUTS)
def test_each_layout(tmp_path, name):
    write, layout, is_divided, masks = folders.LAYOUTS[name]
    write(tmp_path)
    found, parts = read_layout(tmp_path)
    assert found == layout
    assert ('val' in parts) == is_divided
    expected = {part: expected_objects(indices, masks) for part, indices in folders.PARTS.items()}
    if is_divided:
        parts = use_same_classes(parts)
        assert {part: read_objects(parts[part]) for part in parts} == expected
    else:
        assert read_objects(parts['train']) == sorted(expected['train'] + expected['val'])
    for part in parts.values():
        assert [category['name'] for category in part.content['categories']] == list(folders.CLASSES)
        marker = tmp_path / 'annotations.json'
        marker.write_text(json.dumps(part.content))
        assert survey(part.content, marker, str(part.images)).faults == []
        marker.unlink()


def test_a_file_of_a_folder_is_split(tmp_path):
    folders.write_coco(tmp_path)
    name, parts = read_layout(tmp_path / 'annotations/instances_train2017.json')
    assert name == 'COCO' and list(parts) == ['train'] and parts['train'].images == tmp_path / 'train2017'


def part_of_images(numbers, of_class=lambda number: number % 2):
    content = dict(images=[dict(id=number, file_name=f'{number}.jpg', height=9, width=9) for number in numbers],
                   categories=[dict(id=0, name='a'), dict(id=1, name='b')],
                   annotations=[dict(id=number, image_id=number, category_id=of_class(number), bbox=[0, 0, 5, 5],
                                     area=25) for number in numbers])
    return Part(content, None, 'somewhere')


def test_split_is_reproducible():
    first = split(part_of_images(range(100)))
    again = split(part_of_images(range(99, -1, -1)))
    names = [{image['id'] for image in parts['val'].content['images']} for parts in (first, again)]
    assert names[0] == names[1] and len(names[0]) == 20
    train = {image['id'] for image in first['train'].content['images']}
    assert train == set(range(100)) - names[0]
    assert {item['image_id'] for item in first['train'].content['annotations']} == train
    more = {image['id'] for image in split(part_of_images(range(101)))['val'].content['images']}
    assert len(more & names[0]) >= 19, 'one image more does not shuffle the others'


@pytest.mark.parametrize('rare', range(6))
def test_split_leaves_each_class_to_the_training(rare):
    parts = split(part_of_images(range(6), lambda number: int(number == rare)))
    assert {item['category_id'] for item in parts['train'].content['annotations']} == {0, 1}
    assert len(parts['val'].content['images']) == 2


def test_categories_in_another_order():
    train, val = part_of_images(range(4)), part_of_images(range(4))
    val.content['categories'] = [dict(id=7, name='b'), dict(id=8, name='a')]
    for item in val.content['annotations']:
        item['category_id'] = 7 + item['category_id']
    parts = use_same_classes(dict(train=train, val=val))
    assert parts['val'].content['categories'] == train.content['categories']
    assert [item['category_id'] for item in parts['val'].content['annotations']] == [1, 0, 1, 0]


def test_difficult_objects_and_corners_from_0(tmp_path):
    folders.write_voc_folders(tmp_path)
    file = tmp_path / 'train/1.xml'
    text = file.read_text().replace('<difficult>0', '<difficult>1')
    file.write_text(text.replace('<xmin>17</xmin>', '<xmin>0</xmin>'))
    part = read_layout(tmp_path)[1]['train']
    item, = (item for item in part.content['annotations'] if item['image_id'] == 2)
    assert item['iscrowd'] == 1
    assert item['bbox'] == [0, 11, 38, 27], 'a corner at 0 makes all of them count from 0'


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _yolo_label(text):
    return folders.write_yolo, lambda root: _write(root / 'labels/train/0.txt', text)


@pytest.mark.parametrize(('write', 'change', 'says'), [
    (lambda root: None, lambda root: None, 'holds nothing, which is none of the known layouts: COCO (train/'),
    (lambda root: None, lambda root: _write(root / 'a/b.csv', 'x'), 'holds a/, 1 .csv file, which is none'),
    (folders.write_one_json, lambda root: (root / 'labels.json').unlink(), 'holds images/, 12 .jpg files, which'),
    (folders.write_coco, lambda root: _write(root / 'annotations/instances_train_b.json',
                                             (root / 'annotations/instances_train2017.json').read_text()),
     'has two COCO files for one part'),
    (folders.write_yolo, lambda root: [file.unlink() for file in root.glob('labels/train/*')], 'no label file for any'),
    (folders.write_yolo, lambda root: _write(root / 'more.yaml', 'names: [a]'), 'several YAML files'),
    (folders.write_yolo, lambda root: _write(root / 'data.yaml', 'names: [a]\ntrain: nope'), "train is 'nope'"),
    (folders.write_yolo, lambda root: _write(root / 'data.yaml', 'names: [a]\ntrain: images/train\nval: nope'),
     "val is 'nope', where no image is found"),
    (folders.write_yolo, lambda root: _write(root / 'data.yaml', 'names: {0: a, x: b}\ntrain: 5'), 'must be 0, 1, 2'),
    (folders.write_yolo, lambda root: _write(root / 'data.yaml', 'names: [a]\ntrain: 5'), 'train is 5'),
    (folders.write_yolo_classes, lambda root: _write(root / 'classes.txt', ''), 'classes.txt has no names'),
    (*_yolo_label('0 0.5 0.5 0.1\n'), '0.txt, line 1: 3 numbers after the class'),
    (*_yolo_label('\n2 0.5 0.5 0.1 0.1\n'), 'line 2: class 2; there are 2 names'),
    (*_yolo_label('0 48 32 10 10\n'), 'line 1: 48 is not in 0 to 1'),
    (*_yolo_label('balloon 0.5 0.5 0.1 0.1\n'), 'is not numbers'),
    (folders.write_voc, lambda root: _write(root / 'Annotations/0.xml', '<annotation><object>'), 'is not XML'),
    (folders.write_voc, lambda root: _write(root / 'Annotations/0.xml', '<annotation><object><name>a</name></object>'
                                            '</annotation>'), '<object> has no <bndbox>'),
    (folders.write_voc, lambda root: (root / 'JPEGImages/0.jpg').unlink(), "its image '0.jpg' is neither"),
    (folders.write_voc, lambda root: _write(root / 'JPEGImages/0.jpg', 'x'), 'is not readable as an image'),
])
def test_wrong_folders(tmp_path, write, change, says):
    write(tmp_path)
    change(tmp_path)
    with pytest.raises(LayoutError) as error:
        read_layout(tmp_path)
    assert says in str(error.value) and '\n' not in str(error.value)


def test_no_folder(tmp_path):
    with pytest.raises(MissingFileError, match='there is no file or folder'):
        read_layout(tmp_path / 'nope')
