"""Run-length masks are encoded as pycocotools does, and checked before it hangs on them."""
from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from pycocotools import mask as rle

from swin_pos_det.data import masks as module
from swin_pos_det.data.compact_masks import CompactMasks
from swin_pos_det.data.masks import encode_masks, rle_problems

SIZE = (40, 50)


def encoded(array):
    mask = rle.encode(np.asfortranarray(array.astype(np.uint8)))
    return dict(size=list(mask['size']), counts=mask['counts'].decode())


def random_masks(number, seed):
    """Return noise (many short runs), rectangles (few long ones), full and empty ones, of several sizes."""
    generator = np.random.default_rng(seed)
    masks, sizes = [], []
    for index in range(number):
        size = tuple(int(side) for side in generator.integers(1, 900, 2)) if index % 3 else SIZE
        array = np.zeros(size, bool)
        kind = index % 5
        if kind == 0:
            array = generator.random(size) < 0.5
        elif kind == 1:
            array[size[0] // 4:, size[1] // 3:] = True
        elif kind == 2:
            array[:] = True
        elif kind == 3:
            array[generator.integers(size[0]), generator.integers(size[1])] = True
        masks.append(encoded(array))
        sizes.append(size)
    return masks, sizes


@pytest.mark.parametrize('batch', [7, 8192])
def test_what_pycocotools_writes_is_right(monkeypatch, batch):
    monkeypatch.setattr(module, '_BATCH', batch)
    masks, sizes = random_masks(60, seed=0)
    assert rle_problems(masks, sizes) == {}
    uncompressed = [dict(size=list(size), counts=[size[0] * size[1]]) for size in sizes]
    assert rle_problems(uncompressed, sizes) == {}
    as_bytes = [dict(mask, counts=mask['counts'].encode()) for mask in masks]
    assert rle_problems(as_bytes, sizes) == {}


GOOD = encoded(np.pad(np.ones((10, 10)), ((5, 25), (7, 33))))
WRONG = {
    'list': ([[1, 2, 3, 4, 5, 6]], 'is no run-length mask'),
    'none': (None, 'is no run-length mask'),
    'no counts': (dict(size=[40, 50]), 'is no run-length mask'),
    'no size': (dict(counts='abc'), 'is no run-length mask'),
    'swapped': (dict(GOOD, size=[50, 40]), r'has size \[50, 40\], but the image is 40 x 50 .*: they are swapped'),
    'another image': (
        dict(GOOD, size=[480, 640]), r'has size \[480, 640\], but the image is 40 x 50 \(height x width\)$'),
    'size of text': (dict(GOOD, size='40x50'), "has size '40x50'"),
    'garbage': (dict(GOOD, counts='\x01\x02###'), 'no run-length code'),
    'not ASCII': (dict(GOOD, counts='Ωabc'), 'no run-length code'),
    'cut within a number': (dict(GOOD, counts=GOOD['counts'] + 'X'), 'no run-length code'),
    'long number': (dict(GOOD, counts='o' * 30 + '1'), 'no run-length code'),
    'negative run': (dict(GOOD, counts='5N'), 'no run-length code'),
    'cut': (dict(GOOD, counts=GOOD['counts'][:-3]), 'add up to .* pixels, but the image has 2000'),
    'empty': (dict(GOOD, counts=''), 'add up to 0 pixels'),
    'empty list': (dict(GOOD, counts=[]), 'add up to 0 pixels'),
    'list too short': (dict(GOOD, counts=[100, 10, 100]), 'add up to 210 pixels, but the image has 2000'),
    'negative count': (dict(GOOD, counts=[2001, -1]), 'not all whole numbers'),
    'float count': (dict(GOOD, counts=[1999.5, 0.5]), 'not all whole numbers'),
    'text count': (dict(GOOD, counts=['2000']), 'not all whole numbers'),
    'count of null': (dict(GOOD, counts=None), 'neither text nor a list, but a NoneType'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_is_wrong_is_found_between_right_ones(name):
    mask, message = WRONG[name]
    before = copy.deepcopy(mask)
    problems = rle_problems([GOOD, mask, GOOD], [SIZE] * 3)
    assert list(problems) == [1]
    assert re.search(message, problems[1])
    assert mask == before


def test_every_truncation_is_found():
    """No text that lacks an end or has one too much passes, whatever it decodes to."""
    mask = encoded(np.random.default_rng(1).random(SIZE) < 0.3)
    texts = [mask['counts'][:end] for end in range(len(mask['counts']))] + [mask['counts'] + '1']
    masks = [dict(mask, counts=text) for text in texts]
    assert set(rle_problems(masks, [SIZE] * len(masks))) == set(range(len(masks)))


def test_random_text_is_never_a_mask():
    generator = np.random.default_rng(2)
    masks = [dict(size=list(SIZE), counts=bytes(generator.integers(48, 112, 1 + index % 40)).decode())
             for index in range(500)]
    assert len(rle_problems(masks, [SIZE] * 500)) == 500


def test_masks_are_encoded_as_pycocotools_does():
    """Noise, rectangles, full and empty masks, of one pixel and of whole columns; equal to the byte."""
    generator = np.random.default_rng(0)
    for size in ((1, 1), (1, 7), (7, 1), (5, 6), (30, 41)):
        noise = [generator.random(size) < share for share in np.linspace(0, 1, 40)]
        boxes = [np.zeros(size, bool) for _ in range(80)]
        for box in boxes:
            y, x = generator.integers(0, size)
            box[y:y + generator.integers(1, size[0] + 1), x:x + generator.integers(1, size[1] + 1)] = True
        strips = [np.ones(size, bool) & (np.arange(size[1]) > column) for column in range(-1, size[1])]
        masks = np.stack([*noise, *boxes, *strips, *(one & other for one, other in zip(noise, boxes))])
        wanted = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        assert encode_masks(masks) == wanted
        assert encode_masks(masks.astype(np.float32) * 3) == wanted
        assert CompactMasks(masks, *size).encode() == wanted
    assert encode_masks(np.zeros((0, 4, 5), bool)) == []
