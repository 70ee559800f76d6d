"""Files of annotations and results: what is wrong with one is said in one line."""
from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from mmdet.evaluation import CocoMetric

from swin_pos_det.evaluation.coco_files import (
    CocoFileError,
    as_coco,
    load_ground_truth,
    load_results,
    merge_results,
    writing_coco_results,
)

MASK = dict(size=[40, 50], counts='abc')
GOOD = dict(image_id=7, category_id=3, bbox=[1, 2, 3.5, 4], score=0.5, segmentation=MASK)


@pytest.fixture
def dataset():
    return dict(images=[dict(id=7, width=50, height=40, file_name='a/cat.jpg'), dict(id=9, width=5, height=4,
                                                                                   file_name='dog.jpg')],
                categories=[dict(id=3, name='cat'), dict(id=90, name='dog')],
                annotations=[dict(id=1, image_id=7, category_id=3, bbox=[1, 2, 3, 4], area=12, iscrowd=0)])


@pytest.fixture
def read(tmp_path, dataset):
    """Writes results, as they are or as JSON, and reads them."""

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
    ([], 'is empty: it holds no detections'),
    ({'a': 1}, 'holds no COCO results: they are a list'),
    ([1], 'holds no COCO results'),
    ([GOOD, {'image_id': 7, 'category_id': 3, 'bbox': [1, 2, 3, 4]}], 'detection 1 has no score'),
    ([{'image_id': 7, 'category_id': 3, 'score': 1}], 'detection 0 has no bbox or segmentation'),
    ([GOOD, dict(GOOD, image_id=8)], '1 of 2 detections have a image_id that the ground truth has not, such as 8; '
                                     'its 2 ids go from 7 to 9'),
    ([dict(GOOD, image_id=[7])], r'such as \[7\]'),
    ([dict(GOOD, category_id=0)], 'category_id that the ground truth has not, such as 0; its 2 ids go from 3 to 90'),
    ([dict(GOOD, bbox=[1, 2, float('nan'), 4])], r'detection 0 has bbox \[1, 2, nan, 4\]'),
    ([dict(GOOD, bbox=[1, 2, 3])], 'four finite numbers'),
    ([dict(GOOD, bbox='1 2 3 4')], 'four finite numbers'),
    ([dict(GOOD, score=float('inf'))], 'detection 0 has score inf'),
    ([dict(GOOD, score='high')], "detection 0 has score 'high'"),
    ([dict(GOOD, segmentation=dict(MASK, size=[50, 40]))], r'size \[40, 50\] \(height, width\), got \[50, 40\]'),
    ([dict(GOOD, segmentation=[[1, 2, 3, 4, 5, 6]])], 'must be compressed RLE .* got list'),
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
    with pytest.raises(CocoFileError, match="images named 'cat.jpg' cannot be told apart"):
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


def test_masks_join_their_boxes(tmp_path):
    box = {key: GOOD[key] for key in ('image_id', 'category_id', 'bbox', 'score')}
    (tmp_path / 'x.bbox.json').write_text(json.dumps([box, box]))
    assert merge_results(tmp_path / 'x', tmp_path / 'out.json') == 2
    assert json.loads((tmp_path / 'out.json').read_text()) == [box, box]
    (tmp_path / 'x.segm.json').write_text(json.dumps([GOOD, dict(GOOD, score=0.25)]))
    merge_results(tmp_path / 'x', tmp_path / 'out.json')
    assert json.loads((tmp_path / 'out.json').read_text()) == [GOOD, dict(GOOD, mask_score=0.25)]


def test_results_need_mmdets_metric(tmp_path):
    with pytest.raises(CocoFileError, match='evaluates with SimpleNamespace'), \
            writing_coco_results(SimpleNamespace(metrics=[SimpleNamespace()]), tmp_path / 'a.json'):
        pass
    metric = CocoMetric()
    (tmp_path / 'file').write_text('')
    with pytest.raises(CocoFileError, match='cannot be written'), \
            writing_coco_results(SimpleNamespace(metrics=[metric]), tmp_path / 'file/a.json'):
        pass
    with pytest.raises(KeyError), writing_coco_results(SimpleNamespace(metrics=[metric]), tmp_path / 'a.json'):
        raise KeyError
    assert metric.outfile_prefix is None
    assert [path.name for path in tmp_path.iterdir()] == ['file'], 'nothing is left behind'
