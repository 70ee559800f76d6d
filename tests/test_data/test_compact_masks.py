"""Compact masks equal mmdet's bitmaps pixel for pixel, whatever is done to them."""
from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS
from mmdet.structures.mask import BitmapMasks
from pycocotools import mask as coco_mask

from swin_pos_det.data.compact_masks import CompactMasks
from swin_pos_det.data.digits.on_photos import make_digits_on_photos
from swin_pos_det.data.loading import LoadCompactAnnotations, draw_polygons
from swin_pos_det.engine.compact_masks_hook import load_compact_masks


def pair(seed: int, count: int, height: int, width: int) -> tuple[CompactMasks, BitmapMasks]:
    """Return the same masks both ways: rectangles, specks, a full one and an empty one."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.uint8)
    for number, mask in enumerate(masks):
        top, left = rng.integers(height), rng.integers(width)
        part = mask[top:top + rng.integers(1, height + 1), left:left + rng.integers(1, width + 1)]
        part[:] = (1, 0, rng.random(part.shape) > 0.5, rng.random(part.shape) > 0.97)[(number + seed) % 4]
    return CompactMasks(masks.copy(), height, width), BitmapMasks(masks, height, width)


def assert_same(compact: BitmapMasks, bitmap: BitmapMasks) -> None:
    assert (len(compact), compact.height, compact.width) == (len(bitmap), bitmap.height, bitmap.width)
    assert compact.to_ndarray().dtype == bitmap.to_ndarray().dtype
    np.testing.assert_array_equal(compact.to_ndarray(), bitmap.to_ndarray())
    np.testing.assert_array_equal(compact.areas, bitmap.areas)
    np.testing.assert_array_equal(compact.get_bboxes('hbox').tensor, bitmap.get_bboxes('hbox').tensor)


side = st.integers(1, 23)
masks = st.tuples(st.integers(0, 10**6), st.integers(0, 4), side, side)


@settings(max_examples=60, deadline=None)
@given(masks, side, side, st.sampled_from(['nearest', 'bilinear']))
def test_resize(made, height, width, interpolation):
    compact, bitmap = pair(*made)
    assert_same(compact.resize((height, width), interpolation), bitmap.resize((height, width), interpolation))


@settings(max_examples=40, deadline=None)
@given(masks, st.one_of(st.floats(0.2, 4), st.tuples(st.integers(10, 60), st.integers(10, 60))))
def test_rescale(made, scale):
    compact, bitmap = pair(made[0], made[1], made[2] + 9, made[3] + 9)
    assert_same(compact.rescale(scale), bitmap.rescale(scale))


@settings(max_examples=60, deadline=None)
@given(masks, st.data())
def test_crop_expand_pad_flip_and_index(made, data):
    compact, bitmap = pair(*made)
    count, height, width = made[1:]
    box = np.array([data.draw(st.integers(-3, width - 1)), data.draw(st.integers(-3, height - 1)),
                    data.draw(st.integers(0, width + 3)), data.draw(st.integers(0, height + 3))])
    assert_same(compact.crop(box), bitmap.crop(box))
    top, left = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    assert_same(compact.expand(height + 7, width + 6, top, left), bitmap.expand(height + 7, width + 6, top, left))
    assert_same(compact.pad((height + 3, width)), bitmap.pad((height + 3, width)))
    assert_same(compact.pad((height + 1, width + 2), 1), bitmap.pad((height + 1, width + 2), 1))
    for direction in ('horizontal', 'vertical', 'diagonal'):
        assert_same(compact.flip(direction), bitmap.flip(direction))
    index = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=5) if count else st.just([])), int)
    picked = bitmap[index]
    for kind in (index, torch.from_numpy(index), index.tolist() if len(index) else index):
        assert_same(compact[kind], picked)
    chosen = np.arange(count) % 2 == 0
    assert_same(compact[chosen], bitmap[chosen])
    assert_same(compact[torch.from_numpy(chosen)], bitmap[chosen])
    assert_same(compact[1:], bitmap[1:])
    if count:
        assert_same(compact[count - 1], bitmap[count - 1])


@pytest.mark.parametrize(('operation', 'arguments'), [
    ('translate', ((15, 18), 3, 'horizontal')), ('translate', ((12, 14), -2, 'vertical')),
    ('shear', ((12, 14), 0.3)), ('rotate', ((12, 14), 30.))])
@pytest.mark.parametrize('count', [0, 1, 3])
def test_operations_by_whole_masks(operation, arguments, count):
    compact, bitmap = pair(1, count, 12, 14)
    done = getattr(compact, operation)(*arguments)
    assert isinstance(done, CompactMasks)
    assert_same(done, getattr(bitmap, operation)(*arguments))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 9), st.booleans())
def test_crop_and_resize(seed, boxes, binarize):
    compact, bitmap = pair(seed, 4, 20, 30)
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((boxes, 2, 2)) * (30, 20), axis=1).reshape(-1, 4).astype(np.float32)
    inds = rng.integers(0, 4, boxes)
    ours = compact.crop_and_resize(corners, (7, 9), inds, binarize=binarize)
    theirs = bitmap.crop_and_resize(corners, (7, 9), inds, binarize=binarize)
    if boxes:
        np.testing.assert_array_equal(ours.masks, theirs.masks)
        on_device = compact.targets(torch.from_numpy(corners), torch.from_numpy(inds), (7, 9), binarize)
        np.testing.assert_array_equal(on_device.numpy(), theirs.masks)
    assert ours.to_ndarray().shape == (boxes, 7, 9)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize('count', [0, 3])
def test_to_tensor(dtype, count):
    compact, bitmap = pair(2, count, 12, 14)
    assert torch.equal(compact.to_tensor(dtype, 'cpu'), bitmap.to_tensor(dtype, 'cpu'))
    assert [mask.tolist() for mask in compact] == bitmap.masks.tolist()


def test_whole_masks_that_were_asked_for_may_be_written_to():
    compact, bitmap = pair(3, 3, 12, 14)
    for masks in (compact, bitmap):  # as mmdet's CutOut and CopyPaste do
        masks.masks[:, 2:9, 3:8] = 1
    assert_same(compact, bitmap)
    assert_same(compact.flip(), bitmap.flip())
    copied = copy.deepcopy(compact)
    copied.masks[:] = 0
    assert_same(compact, bitmap)
    for masks in (compact, bitmap):
        masks.masks = np.where(bitmap.masks, 0, 1).astype(np.uint8)
    assert_same(compact[1:], bitmap[1:])


@pytest.mark.parametrize('largest', [1, 7])
@pytest.mark.parametrize('dtype', [np.uint8, bool])
@pytest.mark.parametrize('count', [0, 1, 5])
def test_copies_and_pickles(count, dtype, largest):
    masks = (pair(4, count, 12, 14)[1].masks * largest).astype(dtype)
    compact, bitmap = CompactMasks(masks, 12, 14), BitmapMasks(masks, 12, 14)
    assert_same(pickle.loads(pickle.dumps(compact)), bitmap)
    assert_same(copy.deepcopy(compact), bitmap)
    assert_same(copy.copy(compact), bitmap)


def test_a_pickle_holds_bits_of_the_rectangles():
    masks = np.zeros((8, 500, 600), np.uint8)
    masks[:, 100:180, 200:300] = 1
    assert len(pickle.dumps(CompactMasks(masks, 500, 600))) < 8 * 80 * 100 / 8 + 1000


def test_cat():
    (first, _), (second, bitmap) = pair(5, 2, 12, 14), pair(6, 3, 12, 14)
    both = CompactMasks.cat([first, second])
    assert isinstance(both, CompactMasks)
    expected = BitmapMasks(np.concatenate([first.to_ndarray(), bitmap.masks]), 12, 14)
    assert_same(both, expected)
    assert_same(CompactMasks.cat([first, bitmap]), expected)
    with pytest.raises(ValueError, match='empty'):
        CompactMasks.cat([])


def test_random_has_the_interface_of_mmdet():
    assert isinstance(CompactMasks.random(2, 5, 6, rng=np.random.RandomState(0)), CompactMasks)


corner = st.one_of(st.floats(-8, 40), st.integers(-60, 400).map(lambda tenths: tenths / 10))
polygon = st.lists(corner, min_size=6, max_size=20).filter(lambda numbers: len(numbers) % 2 == 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(1, 33), st.integers(1, 33))
def test_polygons_are_drawn_as_by_pycocotools(polygons, height, width):
    whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    crop = draw_polygons([np.array(each) for each in polygons], height, width)
    np.testing.assert_array_equal(CompactMasks.from_crops([crop], height, width).to_ndarray()[0], whole)


def test_loading_equals_mmdets():
    rle = coco_mask.encode(np.asfortranarray(np.eye(40, 50, dtype=np.uint8)))
    counts = dict(size=[40, 50], counts=[100, 50, 1850])
    instances = [dict(mask=[[3, 4, 30.5, 4, 30.5, 20, 3, 20]]), dict(mask=[[1, 2]]), dict(mask=counts),
                 dict(mask=dict(size=[40, 50], counts=rle['counts'].decode())), dict(mask={})]

    def load(kind: type) -> dict:
        results = dict(ori_shape=(40, 50), instances=[dict(each, ignore_flag=0) for each in instances])
        loading = kind(with_bbox=False, with_label=False, with_mask=True)
        loading._load_masks(results)
        return results

    ours, theirs = load(LoadCompactAnnotations), load(LoadAnnotations)
    assert isinstance(ours['gt_masks'], CompactMasks)
    assert_same(ours['gt_masks'], theirs['gt_masks'])
    assert ours['gt_ignore_flags'].tolist() == theirs['gt_ignore_flags'].tolist() == [0, 1, 0, 0, 1]


RESIZE = dict(type='Resize', scale=(160, 120), keep_ratio=True)
CROP = dict(type='RandomCrop', crop_size=(96, 96), allow_negative_crop=True)
MIXING = {
    'CopyPaste': [dict(type='CopyPaste', max_num_pasted=3)],
    'Mosaic': [dict(type='Mosaic', img_scale=(120, 120), prob=1.)],
    'MixUp': [dict(type='MixUp', img_scale=(120, 120), flip_ratio=0.5)],
    'CachedMosaic and CachedMixUp': [dict(type='CachedMosaic', img_scale=(120, 120), random_pop=False, prob=1.),
                                     dict(type='CachedMixUp', img_scale=(120, 120), random_pop=False, prob=1.)],
    'RandomErasing': [dict(type='RandomErasing', n_patches=(2, 4), ratio=(0.2, 0.5))],
    'CutOut': [dict(type='CutOut', n_holes=3, cutout_shape=(20, 30))],
    'geometry': [dict(type='Rotate', prob=1.), dict(type='ShearX', prob=1.), dict(type='TranslateY', prob=1.),
                 dict(type='Expand', prob=1.), dict(type='MinIoURandomCrop'), dict(type='Pad', size_divisor=32)],
    'Albu': [dict(type='Albu', transforms=[dict(type='ShiftScaleRotate', p=1., shift_limit=0.05)],
                  bbox_params=dict(type='BboxParams', format='pascal_voc', label_fields=['gt_bboxes_labels',
                                   'gt_ignore_flags'], filter_lost_elements=True),
                  keymap=dict(img='image', gt_masks='masks', gt_bboxes='bboxes'))],
}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    make_digits_on_photos(root, num_train=6, num_val=2, seed=0)
    return root


@pytest.mark.parametrize('name', MIXING)
def test_pipelines_that_mix_and_distort_images(name, scenes):
    """The same images, boxes and masks, whatever kind of masks is loaded."""
    if name == 'Albu':
        pytest.importorskip('albumentations')
    cached, found = name.startswith('Cached'), {}
    inner = dict(type='DigitsOnPhotosDataset', data_root=str(scenes), ann_file='annotations/train.json', num_train=6,
                 num_val=2, seed=0, data_prefix=dict(img='train/'), filter_cfg=dict(filter_empty_gt=True), pipeline=[
                     dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
                     RESIZE,
                     *([] if name == 'Albu' else [CROP]), *(MIXING[name] if cached else [])])
    for kind in (BitmapMasks, CompactMasks):
        dataset = DATASETS.build(inner if cached else dict(type='MultiImageMixDataset', dataset=inner,
                                                           pipeline=MIXING[name]))
        if kind is CompactMasks:
            assert load_compact_masks(dataset) == 1
        random.seed(1)
        np.random.seed(1)
        found[kind] = [dataset[index] for index in (0, 3, 4, 1, 2)]
    assert any(theirs['gt_masks'].masks.any() for theirs in found[BitmapMasks])
    for ours, theirs in zip(found[CompactMasks], found[BitmapMasks]):
        assert_same(ours['gt_masks'], theirs['gt_masks'])
        np.testing.assert_array_equal(ours['img'], theirs['img'])
        np.testing.assert_array_equal(ours['gt_bboxes'].numpy(), theirs['gt_bboxes'].numpy())
