"""Files of annotations and results: what is wrong with one is said in one line."""
from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from swin_pos_det.data.annotation_file import CocoFileError
from swin_pos_det.evaluation.annotations import as_coco, load_ground_truth
from swin_pos_det.evaluation.result_files import load_results

MASK = dict(size=[40, 50], counts=rle.encode(np.ones((40, 50), np.uint8, order='F'))['counts'].decode())
GOOD = dict(image_id=7, category_id=3, bbox=[1, 2, 3.5, 4], score=0.5, segmentation=MASK)


@pytest.fixture
def dataset():
    return dict(images=[dict(id=7, width=50, height=40, file_name='a/cat.jpg'), dict(id=9, width=5, height=4,
                                                                                   file_name='dog.jpg')],
                categories=[dict(id=3, name='cat'), dict(id=90, name='dog')],
                annotations=[dict(id=1, image_id=7, category_id=3, bbox=[1, 2, 3, 4], area=12, iscrowd=0)])


@pytest.fixture
def read(tmp_path, dataset):
    """Return a function that writes results, as they are or as JSON, and reads them."""

    def run(content):
        path = tmp_path / 'results.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_results(path, as_coco(dataset))

    return run


def test_results_are_read(read):
    assert read([GOOD, dict(GOOD, category_id=90)]) == [GOOD, dict(GOOD, category_id=90)]
    assert read([{key: GOOD[key] for key in ('image_id', 'category_id', 'score', 'segmentation')}])


@pytest.mark.parametrize(('content', 'message'), [
    ('[{', 'is not JSON'),
    ('\x80\x04', 'is not JSON'),
    ({'a': 1}, 'holds no COCO results: they are a list'),
    ([1], 'holds no COCO results'),
    ([GOOD, {'image_id': 7, 'category_id': 3, 'bbox': [1, 2, 3, 4]}], 'detection 1 has no score'),
    ([{'image_id': 7, 'category_id': 3, 'score': 1}], 'detection 0 has no bbox or segmentation'),
    ([GOOD, dict(GOOD, image_id=8)], '1 of 2 detections have a image_id that is not in the ground truth, such as 8; '
                                     'the 2 ids go from 7 to 9'),
    ([dict(GOOD, image_id=[7])], r'such as \[7\]'),
    ([dict(GOOD, category_id=0)], 'category_id that is not in the ground truth, such as 0; the 2 ids go from 3 to 90'),
    ([dict(GOOD, bbox=[1, 2, float('nan'), 4])], r'detection 0 has bbox \[1, 2, nan, 4\]'),
    ([dict(GOOD, bbox=[1, 2, 3])], 'four finite numbers'),
    ([dict(GOOD, bbox='1 2 3 4')], 'four finite numbers'),
    ([dict(GOOD, score=float('inf'))], 'detection 0 has score inf'),
    ([dict(GOOD, score='high')], "detection 0 has score 'high'"),
    ([dict(GOOD, bbox=[10, 10, -3, 4])], 'has a negative size; it must be x, y, w, h'),
    ([dict(GOOD, mask_score=float('nan'))], 'has mask_score nan'),
    ([dict(GOOD, image_id='7')], "such as '7'; .*one of them is a number, the other text"),
    ([GOOD, dict(GOOD, segmentation=dict(MASK, size=[50, 40]))],
     r'the mask of detection 1 \(image 7\) has size \[50, 40\], but the image is 40 x 50 .* swapped; 1 of 2 masks'),
    ([dict(GOOD, segmentation=dict(MASK, counts='abc'))], 'has counts that'),
    ([dict(GOOD, segmentation=[[1, 2, 3, 4, 5, 6]])], 'is no run-length mask, .* but a list'),
    (dict(images=[{}], categories=[], annotations=[]), 'entry 0 of images has no id'),
    (dict(images=[dict(id=1, file_name='dog.jpg')], categories=[], annotations=[dict(image_id=2, category_id=1)]),
     '1 of 1 detections have a image_id that is not in its own images, such as 2'),
])
def test_mistakes_in_results(read, content, message):
    with pytest.raises(CocoFileError, match=message) as error:
        read(content)
    assert 'results.json' in str(error.value)
    assert '\n' not in str(error.value)


def test_a_pickle_is_not_read(tmp_path, dataset):
    (tmp_path / 'results.pkl').write_bytes(b'')
    with pytest.raises(CocoFileError, match='could run code .* --out FILE.json'):
        load_results(tmp_path / 'results.pkl', as_coco(dataset))
    with pytest.raises(CocoFileError, match='none.json does not exist'):
        load_results(tmp_path / 'none.json', as_coco(dataset))


def test_a_data_set_of_predictions_goes_by_names(read):
    found = dict(images=[dict(id=1, file_name='dog.jpg'), dict(id=2, file_name='b/cat.jpg')],
                 categories=[dict(id=1, name='dog'), dict(id=2, name='cat')],
                 annotations=[dict(id=1, image_id=2, category_id=1, bbox=[1, 2, 3, 4], score=0.5)])
    assert [(item['image_id'], item['category_id']) for item in read(found)] == [(7, 90)]
    found['images'].append(dict(id=3, file_name='c/cat.jpg'))
    with pytest.raises(CocoFileError, match="several images are named 'cat.jpg'"):
        read(found)
    found['images'][-1] = dict(id=3, file_name='cow.jpg')
    with pytest.raises(CocoFileError, match="no image named 'cow.jpg'"):
        read(found)


def test_folders_tell_images_of_one_name_apart(read, dataset):
    dataset['images'][1]['file_name'] = 'b/cat.jpg'
    found = dict(images=[dict(id=1, file_name='b/cat.jpg'), dict(id=2, file_name='a/cat.jpg')],
                 categories=[dict(id=1, name='dog')],
                 annotations=[dict(id=1, image_id=2, category_id=1, bbox=[1, 2, 3, 4], score=0.5)])
    assert [item['image_id'] for item in read(found)] == [7]


@pytest.mark.parametrize(('change', 'message'), [
    (dict(annotations=[]), 'has no annotations'), (dict(images=None), 'has no images'),
    (dict(categories=[]), 'has no categories')])
def test_mistakes_in_ground_truth(dataset, tmp_path, change, message):
    (tmp_path / 'gt.json').write_text(json.dumps(dict(dataset, **change)))
    with pytest.raises(CocoFileError, match=message):
        load_ground_truth(tmp_path / 'gt.json')


def test_swapped_files(tmp_path):
    (tmp_path / 'gt.json').write_text('[]')
    with pytest.raises(CocoFileError, match='holds a list: .* The results come first'):
        load_ground_truth(tmp_path / 'gt.json')


def test_a_file_of_several_data_sets_is_read_for_one(tmp_path, dataset):
    mask = dict(size=[4, 5], counts='d0')
    content = [dict(GOOD, dataset='a'), dict(GOOD, dataset='b', image_id=9, segmentation=mask)]
    (tmp_path / 'results.json').write_text(json.dumps(content))
    assert load_results(tmp_path / 'results.json', as_coco(dataset), 'a') == content[:1]
    with pytest.raises(CocoFileError, match='data sets a, b: choose one, with --dataset a'):
        load_results(tmp_path / 'results.json', as_coco(dataset))
    with pytest.raises(CocoFileError, match="no results of a data set 'c'; it has a, b"):
        load_results(tmp_path / 'results.json', as_coco(dataset), 'c')


def test_uncompressed_masks_are_compressed(read):
    plain = dict(size=[40, 50], counts=[0, 2000])
    assert read([dict(GOOD, segmentation=plain)])[0]['segmentation']['counts'] == MASK['counts'].encode()


def test_no_detections_are_results_too(read):
    assert read([]) == []


def test_a_ground_truth_of_crowds_alone(dataset, tmp_path):
    dataset['annotations'][0]['iscrowd'] = 1
    (tmp_path / 'gt.json').write_text(json.dumps(dataset))
    with pytest.raises(CocoFileError, match='has no object to evaluate: .* all of them crowds'):
        load_ground_truth(tmp_path / 'gt.json')
