"""Odd annotations and results for an evaluation: what must come out, and what MMDetection and pycocotools make of them.

The scene has 3 images, 3 classes and 9 objects; its results are the truth, so AP is 1 unless a row says otherwise.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Union

from pycocotools import mask as rle

HEIGHT, WIDTH = 60, 80
CLASSES = ('cat', 'dog', 'owl')
BOTH, FILE, METRIC = ('metric', 'eval_coco'), ('eval_coco', ), ('metric', )


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: of the input.
        change: changes the ground truth and the results, in place. The results have ids of their own.
        expected: AP of boxes and masks, or a regular expression for the one line of the error.
        otherwise: what MMDetection (``metric``) or pycocotools (``eval_coco``) make of it.
        by: which ways lead to it: the metric of a runner, a file through ``eval_coco.py``, or both.
        encoding: of both files.
        metric: settings of the metric.
        arguments: of ``eval_coco.py``.
    """
    name: str
    change: Callable[[dict, list], Any]
    expected: Union[float, str]
    otherwise: str
    by: tuple[str, ...] = BOTH
    encoding: str = 'utf-8'
    metric: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def compressed(segmentation: list, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    """Return polygons as compressed RLE, as a results file has it."""
    mask = rle.merge(rle.frPyObjects(segmentation, height, width))
    return dict(size=[height, width], counts=mask['counts'].decode())


def scene() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations, and results equal to them."""
    annotations, results = [], []
    for image in (1, 2, 3):
        for category in (1, 2, 3):
            x, y, side = 4 + 25 * (category - 1), 5 * image, 10 + 2 * category + image
            polygon = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            annotations.append(dict(id=len(annotations) + 1, image_id=image, category_id=category, iscrowd=0,
                                    bbox=[x, y, side, side], area=side * side, segmentation=polygon))
            results.append(dict(image_id=image, category_id=category, bbox=[x, y, side, side],
                                score=0.9 - len(results) / 100, segmentation=compressed(polygon)))
    gt = dict(images=[dict(id=index, height=HEIGHT, width=WIDTH, file_name=f'{index}.jpg') for index in (1, 2, 3)],
              categories=[dict(id=index, name=name) for index, name in enumerate(CLASSES, 1)], annotations=annotations)
    return gt, results


def keep(gt: dict, results: list) -> None:
    """Change nothing."""


def annotation_ids(new: Callable[[int], Any]) -> Callable:
    def change(gt: dict, results: list) -> None:
        for item in gt['annotations']:
            item['id'] = new(item['id'])
    return change


def image_ids(new: Callable[[int], Any], of_results: Callable[[int], Any] = None) -> Callable:
    def change(gt: dict, results: list) -> None:
        for image in gt['images']:
            image['id'] = new(image['id'])
        for items, name in ((gt['annotations'], new), (results, of_results or new)):
            for item in items:
                item['image_id'] = name(item['image_id'])
    return change


def category_ids(new: Callable[[int], Any], of_results: Callable[[int], Any] = None) -> Callable:
    def change(gt: dict, results: list) -> None:
        for category in gt['categories']:
            category['id'] = new(category['id'])
        for items, name in ((gt['annotations'], new), (results, of_results or new)):
            for item in items:
                item['category_id'] = name(item['category_id'])
    return change


def all_of(*changes: Callable) -> Callable:
    def change(gt: dict, results: list) -> None:
        for one in changes:
            one(gt, results)
    return change


def annotations(**fields: Any) -> Callable:
    return lambda gt, results: [item.update(deepcopy(fields)) for item in gt['annotations']]


def detection(index: int = 4, **fields: Any) -> Callable:
    return lambda gt, results: results[index].update(deepcopy(fields))


def detections(**fields: Any) -> Callable:
    return lambda gt, results: [item.update(deepcopy(fields)) for item in results]


def without(key: str, index: int = 4) -> Callable:
    return lambda gt, results: results[index].pop(key)


def mask(**fields: Any) -> Callable:
    return lambda gt, results: results[4]['segmentation'].update(fields)


def add(gt_item: dict | None = None, result: dict | None = None, times: int = 1) -> Callable:
    """Append copies of the first annotation or detection with some fields changed."""
    def change(gt: dict, results: list) -> None:
        for _ in range(times):
            if gt_item is not None:
                gt['annotations'].append(dict(gt['annotations'][0], id=1000 + len(gt['annotations']), **gt_item))
            if result is not None:
                results.append(dict(results[0], **result))
    return change


def crowd_with_detections_inside(gt: dict, results: list) -> None:
    polygon = [[0, 40, 80, 40, 80, 60, 0, 60]]
    counts = compressed(polygon)
    gt['annotations'].append(dict(id=99, image_id=1, category_id=1, iscrowd=1, bbox=[0, 40, 80, 20], area=1600,
                                  segmentation=counts))
    for x in (0, 20, 40):
        inside = [[x, 42, x + 15, 42, x + 15, 55, x, 55]]
        results.append(dict(image_id=1, category_id=1, bbox=[x, 42, 15, 13], score=0.99,
                            segmentation=compressed(inside)))


def hundred_wrong_ones_first(gt: dict, results: list) -> None:
    """Return, in each image, 100 detections of class 1 where nothing is, with higher scores than the right one."""
    polygon = [[70, 50, 75, 50, 75, 55, 70, 55]]
    for image in gt['images']:
        results += [dict(image_id=image['id'], category_id=1, bbox=[70, 50, 5, 5], score=0.95,
                         segmentation=compressed(polygon)) for _ in range(100)]


def unsorted_categories(gt: dict, results: list) -> None:
    gt['categories'].reverse()


def first_class_missed(gt: dict, results: list) -> None:
    results[:] = [item for item in results if item['category_id'] != 1]


def uncompressed(gt: dict, results: list) -> None:
    for item in results:
        flat = rle.decode(item['segmentation']).ravel(order='F').tolist()
        runs = [(value, len(list(same))) for value, same in groupby(flat)]
        item['segmentation']['counts'] = [0] * runs[0][0] + [length for _, length in runs]


def clear(name: str) -> Callable:
    return lambda gt, results: gt[name].clear()


def replace_results(content: Any) -> Callable:
    def change(gt: dict, results: Any) -> None:
        results[:] = content
    return change


NAN, INF = float('nan'), float('inf')
FIRST_COUNTS = compressed([[4, 5, 17, 5, 17, 18, 4, 18]])['counts']
# MMDetection's result for a row was measured with mmdet 3.3.0, pycocotools 2.0.11 and faster-coco-eval 1.8.0.
FASTER_TYPE = 'right with pycocotools; TypeError or AP 0 with faster-coco-eval'
FASTER_ASSERTION = 'right with pycocotools; AssertionError with faster-coco-eval'
UNKNOWN_IMAGE = 'AssertionError: Results do not correspond to current coco set'
IOU_MINUS_1 = 'AP 0.851: its IoU with everything is -1'

CASES = [
    # -- ids of annotations
    Case('annotation ids from 0', annotation_ids(lambda i: i - 1), 1.,
         'AP 0.814: the object with id 0 counts as missed, its detection as wrong'),
    Case('negative annotation ids', annotation_ids(lambda i: -i), 1.,
         'right with pycocotools; AP 0 with faster-coco-eval'),
    Case('annotation ids 1.0, 2.0, ...', annotation_ids(float), 1., FASTER_TYPE),
    Case('annotation ids 1.5, 2.5, ...', annotation_ids(lambda i: i + 0.5), 1., FASTER_TYPE),
    Case('annotation ids are text', annotation_ids(str), 1., FASTER_TYPE),
    Case('annotation ids are words', annotation_ids('object {}'.format), 1., 'ValueError: could not convert string'),
    Case('annotation ids are numbers and text', annotation_ids(lambda i: i if i % 2 else f'{i}'), 1., FASTER_TYPE),
    Case('annotation ids above 2**53', annotation_ids(lambda i: 2 ** 60 + i), 1., 'right'),
    Case('two annotations have one id', annotation_ids(lambda i: min(i, 8)), 'annotations have the id 8',
         'AP 0.917: one is evaluated twice, the other never'),
    # -- ids of images
    Case('image ids from 0', image_ids(lambda i: i - 1), 1., 'right'),
    Case('negative image ids', image_ids(lambda i: -i), 1.,
         'right for boxes; TypeError for masks with faster-coco-eval'),
    Case('image ids 1.0, 2.0, 3.0, in the results 1, 2, 3', image_ids(float, int), 1., 'right'),
    Case('image ids 1.25, 1.5, 1.75', image_ids(lambda i: 1 + i / 4), 1., FASTER_ASSERTION),
    Case('image ids are text', image_ids(str), 1., FASTER_ASSERTION),
    Case('image ids are numbers and text', image_ids(lambda i: i if i > 1 else 'first'), 1.,
         "TypeError: '<' not supported between instances of 'int' and 'str'"),
    Case('image ids above 2**53', image_ids(lambda i: 2 ** 60 + i), 1., 'right'),
    Case('two images have one id', lambda gt, results: gt['images'][1].update(id=1), 'images have the id 1',
         UNKNOWN_IMAGE),
    # -- ids of categories
    Case('category ids from 0', category_ids(lambda i: i - 1), 1., 'right'),
    Case('category ids 7, 700, 70000', category_ids(lambda i: 7 * 100 ** (i - 1)), 1., 'right'),
    Case('negative category ids', category_ids(lambda i: -i), 1., 'right'),
    Case('category ids are text', category_ids(str), 1., FASTER_TYPE),
    Case('category ids 1.0, 2.0, 3.0, in the results 1, 2, 3', category_ids(float, int), 1., 'right'),
    Case('all ids are text', all_of(annotation_ids(str), image_ids(str), category_ids(str)), 1., FASTER_ASSERTION),
    Case('categories in the file are not sorted by id', unsorted_categories, 1.,
         'right; with classwise=True each class gets the AP of another'),
    Case('two categories have one id', lambda gt, results: gt['categories'][2].update(id=2), 'categories have the id 2',
         'KeyError: 3; the AP of two classes'),
    Case('two categories have one name', lambda gt, results: gt['categories'][2].update(name='dog'),
         "categories have the name 'dog'", 'the labels of later classes are shifted'),
    # -- annotations
    Case('annotations with a byte order mark', keep, 1., 'JSONDecodeError: Unexpected UTF-8 BOM', encoding='utf-8-sig'),
    Case('annotations in UTF-16', keep, 1., 'UnicodeDecodeError', encoding='utf-16'),
    Case('iscrowd is false', annotations(iscrowd=False), 1., 'right'),
    Case('iscrowd is 2', annotations(iscrowd=2), 'has iscrowd 2; it must be 0 or 1', 'AP -1'),
    Case('no iscrowd', lambda gt, results: [item.pop('iscrowd') for item in gt['annotations']], 'has no iscrowd',
         "KeyError: 'iscrowd'"),
    Case('detections inside a crowd', crowd_with_detections_inside, 1., 'right'),
    Case('all objects are crowds', annotations(iscrowd=1), 'has no object to evaluate.*all of them crowds',
         'AP -1, and -1 is the best checkpoint'),
    Case('ignore=1', annotations(ignore=1), 1., 'right: pycocotools overwrites ignore with iscrowd'),
    Case('an annotation of an unknown image', add(dict(image_id=77)), 1., 'right: it is not looked at'),
    Case('an annotation of an unknown category', add(dict(category_id=77)), 1., 'right: it is not looked at'),
    Case('no annotations', clear('annotations'), 'has no annotations', 'AP -1'),
    Case('no images', clear('images'), 'has no images', UNKNOWN_IMAGE),
    Case('no categories', clear('categories'), 'has no (category|categories)', 'KeyError: 1; AP -1'),
    # -- detections
    Case('no detections', replace_results([]), 0., 'nothing is reported; IndexError'),
    Case('a class is missed', first_class_missed, 2 / 3, 'right'),
    Case('all detections have one score', detections(score=0.5), 1., 'right'),
    Case('scores below 0', lambda gt, results: [item.update(score=-item['score']) for item in results], 1.,
         'right: only their order counts'),
    Case('scores above 1', lambda gt, results: [item.update(score=100 * item['score']) for item in results], 1.,
         'right'),
    Case('a score is NaN', detection(score=NAN), 'score.*(nan|NaN)', 'AP 1: sorted anywhere'),
    Case('a score is infinite', detection(score=INF), 'score.*(inf|infinity)', 'AP 1: the surest of all'),
    Case('a box has NaN', detection(bbox=[NAN, 5, 10, 10]), '(bbox|box).*(nan|NaN)',
         'AP 0.851 for a file; AP 1 for a detector'),
    Case('each detection twice, the second less sure',
         lambda gt, results: results.extend([dict(item, score=item['score'] / 100) for item in results]), 1., 'right'),
    Case('a hundred wrong detections come first', hundred_wrong_ones_first, 2 / 3, 'right: AP counts 100 an image'),
    Case('a box without area', add(result=dict(bbox=[30, 30, 0, 0], score=0.01)), 1., 'right'),
    Case('there are no masks, and boxes alone are evaluated',
         lambda gt, results: [item.pop('segmentation') for item in gt['annotations'] + results], 1., 'right',
         metric=dict(metric='bbox'), arguments=('--metric', 'bbox')),
    # -- results files
    Case('results with a byte order mark', keep, 1., 'JSONDecodeError', FILE, encoding='utf-8-sig'),
    Case('ids in the results, all the same', detections(id=5), 1., 'right: they are numbered again', FILE),
    Case('iscrowd=1 in the results', detections(iscrowd=1), 1., 'right: it is overwritten', FILE),
    Case('wrong areas in the results', detections(area=1e9), 1., 'right: they are computed again', FILE),
    Case('a score is text', detection(score='0.9'), "score '0.9'", 'TypeError', FILE),
    Case('a score is null', detection(score=None), 'score None', 'TypeError', FILE),
    Case('no score', without('score'), 'detection 4 has no score', "KeyError: 'score'", FILE),
    Case('a box has three numbers', detection(bbox=[1, 2, 3]), 'four finite numbers', 'IndexError', FILE),
    Case('a box of negative size', detection(bbox=[30, 30, -10, -10]), 'negative size',
         'AP 0.851', FILE),
    Case('a box of negative width', detection(bbox=[30, 30, -10, 10]), 'negative size',
         'AP 0.888: with an area below 0 it does not count as wrong', FILE),
    Case('an image is unknown', detection(image_id=77), '1 of 9 detections have a image_id .* such as 77',
         UNKNOWN_IMAGE, FILE),
    Case('image ids are text in the results', image_ids(int, str), r"such as '1'.*number, the other text",
         UNKNOWN_IMAGE, FILE),
    Case('an image id is null', detection(image_id=None), 'such as None', UNKNOWN_IMAGE, FILE),
    Case('a category is unknown', detection(category_id=0), 'category_id .* such as 0',
         'AP 0.888: it does not count as wrong', FILE),
    Case('category ids are text in the results', category_ids(int, str), 'number, the other text', 'AP 0', FILE),
    Case('neither box nor mask', all_of(without('bbox'), without('segmentation')), 'has no bbox or segmentation',
         'KeyError', FILE),
    Case('one detection has no mask', without('segmentation'), 'not all detections have a segmentation', 'KeyError',
         FILE,
         arguments=('--metric', 'segm')),
    Case('a mask of swapped size', mask(size=[WIDTH, HEIGHT]), 'swapped', IOU_MINUS_1, FILE),
    Case('a mask of another image', mask(size=[480, 640]), r'has size \[480, 640\]', IOU_MINUS_1, FILE),
    Case('counts that do not add up', mask(counts=FIRST_COUNTS[:-3]), 'add up to', 'AP 0.851; others never end', FILE),
    Case('counts of garbage', mask(counts='ooooo~~~~'), 'no run-length code', 'AP 0.851; others never end', FILE),
    Case('empty counts', mask(counts=''), 'add up to 0 pixels', 'AP 0.851: an empty mask', FILE),
    Case('a polygon for a mask', detection(segmentation=[[4, 5, 17, 5, 17, 18]]), 'no run-length mask', 'TypeError',
         FILE),
    Case('a mask is null', detection(segmentation=None), 'no run-length mask', 'TypeError', FILE),
    Case('counts of null', mask(counts=None), 'neither text nor a list', 'TypeError', FILE),
    Case('uncompressed masks', uncompressed, 1., 'TypeError', FILE),
    Case('results are a dict', replace_results({'a': 1}.items()), 'holds no COCO results', 'TypeError', FILE),
    Case('results are numbers', replace_results([1, 2]), 'holds no COCO results', 'TypeError', FILE),
    Case('--max-dets without 100', keep, '--max-dets must be three ascending numbers with 100', 'AP -1', FILE,
         arguments=('--max-dets', '1', '10', '50')),
    Case('--max-dets in descending order', keep, '--max-dets must be three ascending numbers', 'AR under other names',
         FILE,
         arguments=('--max-dets', '100', '10', '1')),
    Case('--classes without one in the annotations', keep, "no class 'cow'; it has cat, dog, owl",
         'AP of no class: -1', FILE,
         arguments=('--classes', 'cow')),
    # -- settings of the metric
    Case('proposal_nums without 100', keep, 'proposal_nums must be three ascending numbers with 100',
         'AP -1, and -1 is the best checkpoint', METRIC, metric=dict(proposal_nums=(1, 10, 50))),
    Case('one proposal_nums', keep, 'proposal_nums must be three', 'IndexError after the epoch', METRIC,
         metric=dict(proposal_nums=(100, ))),
    Case("COCO's own proposal_nums", keep, 1., 'right, but AR@1 under the name AR@100', METRIC,
         metric=dict(proposal_nums=(1, 10, 100))),
    Case('iou_thrs is a number', keep, 1., "TypeError: object of type 'float' has no len()", METRIC,
         metric=dict(iou_thrs=0.5)),
    Case('iou_thrs without 0.5', keep, 1., 'ValueError: Calling nonzero on 0d arrays', METRIC,
         metric=dict(iou_thrs=[0.6, 0.7])),
    Case('iou_thrs as percentages', keep, 'iou_thrs must be ascending, above 0 and at most 1',
         'ValueError: Calling nonzero on 0d arrays', METRIC,
         metric=dict(iou_thrs=[50, 75])),
    Case('an unknown metric', keep, 'metric must be one or several of bbox, segm', 'KeyError', METRIC,
         metric=dict(metric='box')),
    Case('an unknown metric item', keep, "metric_items has 'mAP50'; .*mAP_50", 'KeyError after the epoch', METRIC,
         metric=dict(metric_items=['mAP50'])),
    Case('format_only without a file', keep, 'needs outfile_prefix', "AssertionError: outfile_prefix must be not",
         METRIC,
         metric=dict(format_only=True)),
    Case('an unknown evaluator', keep, "evaluator must be one of .*'faster'", 'has no such setting', METRIC,
         metric=dict(evaluator='fast')),
    # -- what a detector may do
    # One of three detections of a class is wrong, the second surest: its AP is (34 + 33 * 2/3) / 101.
    Case('a detected box ends before it starts', detection(bbox=[30, 30, -10, 10]), (2 + 56 / 101) / 3,
         'AP 0.888: with an area below 0 it does not count as wrong', METRIC, metric=dict(metric='bbox')),
    Case('an image is not in the annotations', detection(index=0, image_id=77), 'has not 1 of the 4 images',
         UNKNOWN_IMAGE, METRIC),
]


def write(case: Case, folder: Any) -> tuple[dict, list]:
    """Write ``gt.json`` and ``results.json`` of a row; returns their contents."""
    gt, results = scene()
    case.change(gt, results)
    for name, content in (('gt', gt), ('results', results)):
        (folder / f'{name}.json').write_text(json.dumps(content), encoding=case.encoding)
    return gt, results
