"""The checks count as dropped what mmdet drops: their counts equal those of real data sets."""
from __future__ import annotations

import json
from collections import Counter

import pytest
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations

from swin_pos_det.data.coco_datasets import build_unread, keep
from swin_pos_det.data.objects import Objects

from .odd_inputs import HEIGHT, RLE, WIDTH, annotations

# filter_cfg of mmdet's configs for COCO, which ours inherit.
FILTER = dict(filter_empty_gt=True, min_size=32)
X, Y = 2., 3.


class WideOnly(CocoDataset):
    """Leaves narrow objects out."""

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        info['instances'] = [one for one in info['instances'] if one['bbox'][2] - one['bbox'][0] > 10]
        return info


class CrowdsToo(CocoDataset):
    """Learns from crowds and from objects of area 0."""

    def parse_data_info(self, raw_data_info):
        for item in raw_data_info['raw_ann_info']:
            item.update(iscrowd=0, area=item['area'] or 1)
        return super().parse_data_info(raw_data_info)


class TwoOrMore(CocoDataset):
    """Leaves images with fewer than three objects out."""

    def filter_data(self):
        return [info for info in super().filter_data() if len(info['instances']) > 2]


def change(places, **fields):
    def apply(content):
        for place in places:
            content['annotations'][place].update(fields)
    return apply


def images(places, **fields):
    def apply(content):
        for place in places:
            content['images'][place].update(fields)
    return apply


def leave_one_object_in_two_images(content):
    content['annotations'] = [item for item in content['annotations'] if item['image_id'] > 2 or item['id'] in (1, 5)]


def several(*changes):
    def apply(content):
        for one in changes:
            one(content)
    return apply


FILES = {
    'nothing odd': several(),
    'area': several(change([0, 1], area=0), change([4], area=-5), change([5], area=0.5)),
    'boxes': several(change([0], bbox=[X, Y, 0, 9]), change([1], bbox=[X, Y, 9, -3]), change([2], bbox=[X, Y, .5, 9]),
                     change([3], bbox=[X, Y, 1, 1])),
    'outside': several(change([0], bbox=[WIDTH, Y, 9, 9]), change([1], bbox=[-20, Y, 20, 9]),
                       change([2], bbox=[X, HEIGHT + 5, 9, 9]), change([3], bbox=[-5, -5, 9, 9])),
    'crowd and ignore': several(change([0, 1], iscrowd=1), change([1, 2], ignore=1), change([3], ignore=0)),
    'a whole image of crowds': change(range(4), iscrowd=1),
    'a whole image without area': change(range(4), area=0),
    'other categories and images': several(change([0, 1], category_id=77), change([1, 2], image_id=77)),
    'a whole image of other categories': change(range(4), category_id=77),
    'images without objects': lambda content: content['annotations'].__delitem__(slice(4, 12)),
    'small images': several(images([1], width=31), images([2], height=31), images([3], width=32, height=32)),
    'masks': several(change([0, 1], segmentation=[[1, 1, 5, 5]]), change([2], segmentation=[[1, 1, 5, 1, 5]]),
                     change([3], segmentation=[[1, 1], [1, 1, 9, 1, 9, 9]]), change([4, 5], segmentation=RLE),
                     change([6], segmentation=RLE, iscrowd=1)),
    'several at once': several(change([0], area=0, iscrowd=1), change([1], ignore=1, bbox=[X, Y, 0, 0]),
                               change(range(8, 12), segmentation=[[1, 1]]), leave_one_object_in_two_images),
}
SETTINGS = {
    'filtered': dict(filter_cfg=FILTER),
    'not filtered': dict(),
    'validation': dict(filter_cfg=FILTER, test_mode=True),
    'one class': dict(filter_cfg=FILTER, metainfo=dict(classes=('dog', ))),
    'some images': dict(filter_cfg=FILTER, indices=3),
    'with masks': dict(filter_cfg=FILTER, masks='bitmap'),
    'with polygons': dict(filter_cfg=FILTER, masks='polygon'),
    'narrow objects left out': dict(filter_cfg=FILTER, type=WideOnly),
    'more kept': dict(filter_cfg=FILTER, type=CrowdsToo),
    'a filter of its own': dict(filter_cfg=FILTER, type=TwoOrMore),
    'a subclass and one class': dict(type=WideOnly, metainfo=dict(classes=('dog', )), indices=[0, 2]),
}


def built(settings, masks):
    """Return (image ids, objects by class) of the data set as mmdet builds it and loads its annotations."""
    dataset = settings['type'](**{key: value for key, value in settings.items() if key != 'type'})
    load = LoadAnnotations(with_bbox=True, with_mask=masks is not None, poly2mask=masks != 'polygon')
    classes, ids = Counter(), []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        ids.append(info['img_id'])
        found = load(dict(info, ori_shape=(info['height'], info['width'])))
        classes.update(dataset.metainfo['classes'][label] for label, ignored in zip(
            found['gt_bboxes_labels'], found['gt_ignore_flags']) if not ignored)
    return ids, classes


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('file', FILES)
def test_counts_are_those_of_a_data_set_that_is_built(tmp_path, file, settings):
    content = annotations('t')
    FILES[file](content)
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(content))
    given = {**dict(type=CocoDataset, ann_file=str(path), data_prefix=dict(img=''),
                    metainfo=dict(classes=('cat', 'dog'))), **SETTINGS[settings]}
    masks = given.pop('masks', None)
    kept = keep(build_unread(given), content, Objects(content), masks)
    ids, classes = built(given, masks)
    assert [content['images'][row]['id'] for row in kept.rows] == ids
    assert kept.images.left == len(ids) and kept.images.total == len(content['images'])
    assert kept.objects.left == sum(classes.values())
    assert kept.per_class == {name: classes[name] for name in given['metainfo']['classes']}
    asked = [item for item in content['annotations'] if item['category_id'] in (9, 77)
             or 'cat' in given['metainfo']['classes']]
    assert kept.objects.total == len(asked)
