"""AP, AR and confusions of COCO results, against pycocotools and against manual counts."""
from __future__ import annotations

import copy
import json

import mmcv
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval

from swin_pos_det.analysis.studies.evaluator_comparison import jittered_detections
from swin_pos_det.evaluation.annotations import as_coco
from swin_pos_det.evaluation.coco_eval import evaluate, kinds_of
from swin_pos_det.evaluation.confusion import confusion_matrix
from swin_pos_det.evaluation.plots import plot_confusion_matrix, plot_precision_recall

CLASSES = ('cat', 'dog', 'owl', 'unseen')


def scene(index, category, x, y, w, h, image=1, **more):
    return dict(dict(id=index, image_id=image, category_id=category, bbox=[x, y, w, h], area=w * h, iscrowd=0,
                     segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]), **more)


@pytest.fixture
def dataset():
    crowd = np.zeros((100, 200), np.uint8, order='F')
    crowd[50:, 100:] = 1
    mask = rle.encode(crowd)
    return dict(
        images=[dict(id=index, width=200, height=100, file_name=f'{index}.jpg') for index in (1, 2)],
        categories=[dict(id=10 * index, name=name) for index, name in enumerate(CLASSES, 1)],
        annotations=[scene(1, 10, 0, 0, 20, 20), scene(2, 20, 40, 0, 40, 40), scene(3, 30, 0, 50, 30, 30),
                     scene(4, 10, 100, 50, 100, 50, iscrowd=1,
                           segmentation=dict(size=[100, 200], counts=mask['counts'].decode())),
                     scene(5, 10, 0, 0, 30, 30, image=2)])


def detection(category, box, score, image=1):
    mask = rle.merge(rle.frPyObjects(scene(0, category, *box)['segmentation'], 100, 200))
    return dict(image_id=image, category_id=category, bbox=list(map(float, box)), score=score,
                segmentation=dict(size=mask['size'], counts=mask['counts'].decode()))


@pytest.fixture
def results():
    return [detection(10, (0, 0, 20, 20), 0.9), detection(10, (1, 0, 20, 20), 0.8),  # a cat, found twice
            detection(30, (40, 0, 40, 40), 0.7),  # a dog taken for an owl; the owl itself is missed
            detection(10, (110, 60, 30, 30), 0.6),  # a cat of the crowd
            detection(20, (110, 60, 30, 30), 0.6),  # a dog there
            detection(10, (0, 0, 30, 30), 0.2, image=2)]


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_confusions(dataset, results, iou_type):
    matrix = confusion_matrix(as_coco(dataset), results, iou_type)
    expected = np.zeros((5, 5), int)
    expected[0, 0] = 1  # the cat
    expected[0, 4] = 1  # the cat whose detection has a low score
    expected[1, 2] = 1  # the dog that is an owl
    expected[2, 4] = 1  # the owl
    expected[4, 0] = 1  # the second detection of the cat
    expected[4, 1] = 1  # the dog in the crowd of cats
    assert matrix.counts.tolist() == expected.tolist()
    assert tuple(matrix.names) == CLASSES
    every = confusion_matrix(as_coco(dataset), results, iou_type, score_threshold=0.1)
    assert every.counts[0].tolist() == [2, 0, 0, 0, 0]


def test_the_right_class_comes_first(dataset):
    found = [detection(20, (0, 0, 20, 20), 0.9), detection(10, (0, 0, 18, 20), 0.5)]
    counts = confusion_matrix(as_coco(dataset), found).counts
    assert counts[0, 0] == 1
    assert counts[4, 1] == 1
    assert counts[0, 1] == 0


def test_confusions_of_some_classes(dataset, results):
    matrix = confusion_matrix(as_coco(dataset), results, classes=['dog', 'cat'])
    assert matrix.names == ['cat', 'dog']
    assert matrix.counts.tolist() == [[1, 0, 1], [0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
@pytest.mark.parametrize('max_dets', [(1, 10, 100), (100, 300, 1000)])
def test_evaluate_is_pycocotools(dataset, iou_type, max_dets):
    found = jittered_detections(as_coco(copy.deepcopy(dataset)), per_image=300, seed=8)
    scores = evaluate(as_coco(copy.deepcopy(dataset)), found, iou_type, max_dets=max_dets)
    gt = as_coco(copy.deepcopy(dataset))
    other = 'segmentation' if iou_type == 'bbox' else 'bbox'
    theirs = COCOeval(gt, gt.loadRes([{k: v for k, v in item.items() if k != other} for item in found]), iou_type)
    theirs.params.maxDets = list(max_dets)
    for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
        step()
    np.testing.assert_array_equal(np.nan_to_num(list(scores.stats.values()), nan=-1), theirs.stats)
    assert scores.stats['AP'] > 0
    assert list(scores.stats)[:3] == ['AP', 'AP50', 'AP75']
    assert list(scores.stats)[6:9] == [f'AR@{number}' for number in max_dets]
    rows = {row['name']: row for row in scores.per_class}
    assert [rows[name]['objects'] for name in CLASSES] == [2, 1, 1, 0]
    assert np.isnan(rows['unseen']['AP'])
    precision = theirs.eval['precision'][:, :, 0, 0, -1]
    assert rows['cat']['AP'] == precision.mean()
    assert rows['cat']['AP50'] == precision[0].mean()
    np.testing.assert_allclose(scores.precision, theirs.eval['precision'][:, :, :3, 0, -1].mean(2), rtol=1e-12)


def test_perfect_results(dataset):
    found = [detection(item['category_id'], item['bbox'], 0.9, item['image_id']) for item in dataset['annotations'][:3]]
    found.append(detection(10, (0, 0, 30, 30), 0.8, 2))
    for iou_type in ('bbox', 'segm'):
        scores = evaluate(as_coco(copy.deepcopy(dataset)), found, iou_type)
        defined = {name: value for name, value in scores.stats.items() if value == value}
        assert list(defined.values()) == pytest.approx([1.] * 10, abs=1e-12)
        assert set(scores.stats) - set(defined) == {'APl', 'ARl'}, 'there are no large objects'


def test_sizes_of_masks_go_by_the_mask(dataset):
    """A thin detection in a large box is small for mask AP, as in mmdet."""
    thin = detection(10, (0, 0, 20, 20), 0.9)
    thin['bbox'] = [0., 0., 190., 90.]
    assert evaluate(as_coco(copy.deepcopy(dataset)), [thin], 'segm').stats['APs'] == pytest.approx(0.25, abs=0.01)


def test_a_mask_may_have_its_own_score(dataset):
    right, wrong = detection(20, (40, 0, 40, 40), 0.9), detection(20, (120, 0, 40, 40), 0.5)

    def ap(iou_type):
        return evaluate(as_coco(copy.deepcopy(dataset)), [right, wrong], iou_type, classes=['dog']).stats['AP']

    assert ap('segm') == pytest.approx(1)
    wrong['mask_score'] = 0.95
    assert ap('segm') < 0.9
    assert ap('bbox') == pytest.approx(1)


def test_input_is_left_alone(dataset, results):
    before = copy.deepcopy(results)
    for iou_type in ('bbox', 'segm'):
        evaluate(as_coco(dataset), results, iou_type)
    confusion_matrix(as_coco(dataset), results, 'segm')
    assert results == before


def test_mistakes(dataset, results):
    gt = as_coco(dataset)
    for max_dets in ((1, 10), (10, 1, 100), (1, 10, 50), (0, 10, 100)):
        with pytest.raises(ValueError, match='three ascending numbers with 100 among them'):
            evaluate(gt, results, max_dets=max_dets)
    with pytest.raises(ValueError, match="no class 'cow'; it has cat, dog, owl, unseen"):
        evaluate(gt, results, classes=['cow'])
    with pytest.raises(ValueError, match='iou_threshold above 0'):
        confusion_matrix(gt, results, iou_threshold=0)
    del results[3]['segmentation']
    assert kinds_of(results) == ['bbox']
    with pytest.raises(ValueError, match='not all detections have a segmentation'):
        evaluate(gt, results, 'segm')


def test_pictures(dataset, results, tmp_path):
    gt = as_coco(dataset)
    scores = [evaluate(gt, results, kind) for kind in kinds_of(results)]
    json.dumps([score.as_dict() for score in scores], allow_nan=False)
    plot_precision_recall(scores, tmp_path / 'new/pr.png', 'title')
    plot_confusion_matrix(confusion_matrix(gt, results), tmp_path / 'new/confusion.png')
    plot_confusion_matrix(confusion_matrix(gt, results[1:]), tmp_path / 'new/other.png')
    pictures = {path.stem: mmcv.imread(str(path)) for path in (tmp_path / 'new').glob('*.png')}
    assert pictures['pr'].shape[1] > 1.8 * pictures['pr'].shape[0], 'two panels'
    assert (pictures['confusion'] != pictures['other']).any()
