"""Unusable annotation files are reported in one line, before anything is built."""
from __future__ import annotations

import gc

import pytest

from swin_pos_det.data.annotation_file import (
    CocoFileError,
    check_annotations,
    check_classes,
    check_masks,
    read_json,
)

POLYGON = [[1, 1, 5, 1, 5, 5]]


@pytest.fixture
def dataset():
    return dict(
        images=[dict(id=7, width=50, height=40, file_name='cat.jpg'), dict(id=9, width=5, height=4, file_name='d.jpg')],
        categories=[dict(id=3, name='cat'), dict(id=90, name='dog')],
        annotations=[dict(id=1, image_id=7, category_id=3, bbox=[1, 2, 3, 4], area=12, iscrowd=0, segmentation=POLYGON),
                     dict(id=2, image_id=7, category_id=90, bbox=[0, 0, 2, 2], area=4., iscrowd=1,
                          segmentation=dict(counts=[2000], size=[40, 50]))])


def test_what_mmdet_takes_passes(dataset):
    check_annotations(dataset, 'gt.json')
    check_masks(dataset, 'gt.json')
    # Subsets leave annotations of other images and classes in; mmdet and pycocotools pass over them.
    dataset['annotations'] += [dict(dataset['annotations'][0], id=3, image_id=1), dict(dataset['annotations'][0], id=4,
                                                                                     category_id=1)]
    check_annotations(dataset, 'gt.json')


@pytest.mark.parametrize(('part', 'field', 'value', 'message'), [
    ('images', 'id', None, r'image 1 \(id None\) has id None; it must be a number or text'),
    ('images', 'file_name', 5, r'image 1 \(id 9\) has file_name 5; it must be text'),
    ('images', 'height', '4', "has height '4'; it must be a number of pixels above 0"),
    ('images', 'width', 0, 'has width 0; it must be a number of pixels above 0'),
    ('images', 'id', 7, '2 images have the id 7; it must be unique'),
    ('categories', 'id', 3, '2 categories have the id 3; it must be unique'),
    ('categories', 'name', 'cat', "2 categories have the name 'cat'; it must be unique"),
    ('annotations', 'id', 1, '2 annotations have the id 1; it must be unique'),
    ('annotations', 'image_id', [7], r'annotation 1 \(id 2\) has image_id \[7\]; it must be a number or text'),
    ('annotations', 'bbox', [1, 2, 3], r'has bbox \[1, 2, 3\]; it must be four finite numbers, x, y, w, h'),
    ('annotations', 'bbox', [1, 2, float('nan'), 3], r'has bbox \[1, 2, nan, 3\]'),
    ('annotations', 'bbox', 'x' * 99, r"has bbox 'x{50,60}\.\.\.; it must"),
    ('annotations', 'area', float('inf'), 'has area inf; it must be a finite number'),
    ('annotations', 'iscrowd', 'no', "has iscrowd 'no'; it must be 0 or 1"),
])
def test_a_wrong_field_is_named(dataset, part, field, value, message):
    dataset[part][1][field] = value
    with pytest.raises(CocoFileError, match=f'^gt.json: .*{message}'):
        check_annotations(dataset, 'gt.json')


@pytest.mark.parametrize(('part', 'field'), [
    ('images', 'id'), ('images', 'file_name'), ('images', 'height'), ('images', 'width'), ('categories', 'id'),
    ('categories', 'name'), ('annotations', 'id'), ('annotations', 'image_id'), ('annotations', 'category_id'),
    ('annotations', 'bbox'), ('annotations', 'area'), ('annotations', 'iscrowd')])
def test_a_missing_field_is_named(dataset, part, field):
    del dataset[part][0][field]
    with pytest.raises(CocoFileError, match=f'^gt.json: (image|category|annotation) 0.* has no {field}$'):
        check_annotations(dataset, 'gt.json')


@pytest.mark.parametrize('part', ['images', 'categories', 'annotations'])
def test_a_missing_part_is_named(dataset, part):
    for wrong in ([], {}, None):
        with pytest.raises(CocoFileError, match=f'^gt.json has no {part}$'):
            check_annotations(dict(dataset, **{part: wrong}), 'gt.json')
    with pytest.raises(CocoFileError, match='^gt.json: .* 0 is a int, not a dict'):
        check_annotations(dict(dataset, **{part: [1]}), 'gt.json')
    with pytest.raises(CocoFileError, match='^gt.json holds a list: COCO annotations are a dict'):
        check_annotations([dataset], 'gt.json')


def test_a_training_needs_less(dataset):
    del dataset['annotations'][0]['iscrowd']
    check_annotations(dataset, 'gt.json', evaluated=False)
    check_annotations(dict(dataset, annotations=[]), 'gt.json', evaluated=False, annotated=False)
    with pytest.raises(CocoFileError, match='has no annotations'):  # pycocotools would go through null
        check_annotations(dict(dataset, annotations=None), 'gt.json', evaluated=False, annotated=False)
    dataset['annotations'][0]['segmentation'] = [[1, 2]]
    check_masks(dataset, 'gt.json', evaluated=False)


@pytest.mark.parametrize(('field', 'message'), [
    ('image_id', r"no annotation belongs to one of the images: .* such as \[7\], and image_id .* such as '7'"),
    ('category_id', r"no annotation belongs to one of the categories: .* \[3\], and category_id .* such as '3'")])
def test_ids_of_another_type(dataset, field, message):
    for annotation in dataset['annotations']:
        annotation[field] = str(annotation[field])
    with pytest.raises(CocoFileError, match=message):
        check_annotations(dataset, 'gt.json')


@pytest.mark.parametrize('wrong', [[], 'abc', None, {}, dict(counts='a'), [1, 2], [[1, 2, 3, 4]],
                                   [[1, 2, 'a', 4, 5, 6]]], ids=str)
def test_masks_that_are_none(dataset, wrong):
    dataset['annotations'][1]['segmentation'] = wrong
    with pytest.raises(CocoFileError, match=r'^gt.json: annotation 1 \(id 2\) has segmentation .*; it must be RLE'):
        check_masks(dataset, 'gt.json')
    del dataset['annotations'][1]['segmentation']
    for evaluated in (True, False):
        with pytest.raises(CocoFileError, match='has no segmentation'):
            check_masks(dataset, 'gt.json', evaluated)


def test_classes_that_the_file_lacks(dataset):
    check_classes(dataset, ['dog', 'cat'], 'gt.json')
    check_classes(dataset, ['dog'], 'gt.json')
    with pytest.raises(CocoFileError, match=r"no category named 'cow' \(nor 1 others of the dataset's 3 classes\); it "
                                            r'has cat, dog. Give .* metainfo=dict\(classes=\(...\)\)'):
        check_classes(dataset, ['cow', 'dog', 'bird'], 'gt.json')


def test_json_that_is_none(tmp_path):
    path = tmp_path / 'gt.json'
    for content in ('', '{"images": [', '\x80\x04', '[' * 10**5):
        path.write_text(content)
        with pytest.raises(CocoFileError, match='gt.json is not JSON'):
            read_json(path)
    assert gc.isenabled()
    with pytest.raises(CocoFileError, match='none.json does not exist'):
        read_json(tmp_path / 'none.json')


def test_what_mmdet_leaves_out_may_lack_what_counts(dataset):
    one = dataset['annotations'][0]
    one.update(id=1., image_id=7., category_id=3.)  # as pandas writes them
    unused = dict(id=5, image_id=7, category_id=90, bbox=[0, 0, 1, 1], area=1)
    dataset['annotations'] = [one, unused, dict(one, id=6, segmentation=[], area=0)]
    dataset['categories'].append(dict(id=91, name='dog'))
    check_annotations(dataset, 'gt.json', classes=['cat'])
    check_masks(dataset, 'gt.json', evaluated=False, kept=[True, False, False])
    with pytest.raises(CocoFileError, match=r'annotation 2 .*segmentation \[\]'):
        check_masks(dataset, 'gt.json', classes=['cat'])
    with pytest.raises(CocoFileError, match="2 categories have the name 'dog'"):
        check_annotations(dataset, 'gt.json')
    del dataset['images'][0]['file_name']
    check_annotations(dataset, 'gt.json', loaded=False, classes=['cat'])
