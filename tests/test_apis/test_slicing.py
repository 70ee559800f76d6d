"""Sliced inference: every object of a large image once, and small images as without it."""
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from pycocotools import mask as rle
from torch import nn

from swin_pos_det.apis import Slicing, predict_files
from swin_pos_det.apis.inference import predict_batch
from swin_pos_det.apis.pipeline import InputPipeline
from swin_pos_det.apis.slicing import merge_order, predict_sliced
from swin_pos_det.data.compact_masks import CompactMasks
from swin_pos_det.errors import SettingError

# Pixels, after resizing, of the smallest object that is found.
SMALLEST = 40


class Blobs(nn.Module):
    """A detector that finds bright regions: green ones are class 0, red ones class 1; larger ones score more."""

    def __init__(self, scale: int, masks: bool = True, boxes: bool = True) -> None:
        super().__init__()
        self.masks, self.boxes, self.batches = masks, boxes, []
        self.dataset_meta = dict(classes=('green', 'red'), palette=[(0, 255, 0), (255, 0, 0)])
        self.cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[
            dict(type='LoadImageFromFile'), dict(type='Resize', scale=(scale, scale), keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))]))))

    def test_step(self, data: dict) -> list[DetDataSample]:
        """Detect in a batch."""
        self.batches.append(len(data['inputs']))
        for image, sample in zip(data['inputs'], data['data_samples']):
            sample.pred_instances = self._detect(image.numpy(), sample.ori_shape)
        return data['data_samples']

    def _detect(self, image: np.ndarray, shape: tuple[int, int]) -> InstanceData:
        boxes, scores, labels, masks = [], [], [], []
        for label, channel in enumerate((1, 2)):
            number, regions, stats, _ = cv2.connectedComponentsWithStats((image[channel] > 128).astype(np.uint8))
            for index in range(1, number):
                x, y, width, height, area = stats[index].tolist()
                if area < SMALLEST:
                    continue
                factor = shape[1] / image.shape[2]
                boxes.append([factor * side for side in (x, y, x + width, y + height)])
                scores.append(1 - 1 / (2 + factor**2 * area))
                labels.append(label)
                masks.append(cv2.resize((regions == index).astype(np.uint8), shape[::-1],
                                        interpolation=cv2.INTER_NEAREST) > 0)
        found = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), scores=torch.tensor(scores),
                             labels=torch.tensor(labels, dtype=torch.long))
        if not self.boxes:
            found.bboxes = torch.zeros_like(found.bboxes)
        if self.masks:
            found.masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *shape), bool))
        return found


def draw(shape, step, side, seed=0):
    """Return an image with a disc in each cell of a grid, anywhere in it, and the discs' boxes and classes."""
    generator = np.random.default_rng(seed)
    image, boxes, labels = np.zeros((*shape, 3), np.uint8), [], []
    for y in range(0, shape[0] - step + 1, step):
        for x in range(0, shape[1] - step + 1, step):
            top, left = (at + int(generator.integers(1, step - side - 1)) for at in (y, x))
            label = int(generator.integers(2))
            cv2.circle(image, (left + side // 2, top + side // 2), side // 2, (0, 255, 0) if label == 0 else
                       (0, 0, 255), -1)
            boxes.append([left, top, left + side // 2 * 2 + 1, top + side // 2 * 2 + 1])
            labels.append(label)
    return image, np.array(boxes, float), np.array(labels)


def check(found, boxes, labels, tolerance=1.):
    """Check that each object was found exactly once."""
    assert len(found) == len(boxes)
    distance = np.abs(found.bboxes.numpy()[:, None] - boxes[None]).max(2)
    nearest = distance.argmin(1)
    assert sorted(nearest) == list(range(len(boxes)))
    assert distance.min(1).max() <= tolerance
    assert found.labels.tolist() == labels[nearest].tolist()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize('overlap', [0.2, 0.35])
def test_many_small_objects_are_each_found_once(overlap):
    image, boxes, labels = draw((700, 1000), 40, 21)
    model = Blobs(256)
    pipeline = InputPipeline(model)
    assert len(predict_batch(model, [image], pipeline, 0.)[0].pred_instances) < len(boxes) / 4, 'too small for it'
    model.batches.clear()
    slicing = Slicing(256, overlap)
    tiles = slicing.tiles(700, 1000)
    # The objects at borders are cut in some tile, so that a plain sum of all tiles would have them twice.
    inner = {tile.x for tile in tiles} | {tile.x + tile.width for tile in tiles if tile.x + tile.width < 1000}
    assert sum(any(box[0] < x < box[2] for x in inner) for box in boxes) > 20
    sample = predict_sliced(model, image, pipeline, 0., slicing, batch_size=4)
    found = sample.pred_instances
    check(found, boxes, labels)
    assert (sample.ori_shape, sample.scale_factor) == ((700, 1000), (256 / 1000, 179 / 700))
    assert sum(model.batches) == 1 + len(tiles) and set(model.batches[1:-1]) == {4}, 'tiles go in batches'
    assert isinstance(found.masks, CompactMasks)
    masks = found.masks.to_ndarray()
    assert masks.shape == (len(boxes), 700, 1000)
    assert not (masks.sum(0) > 1).any() and (masks.any(0) == (image.max(2) > 128)).all()


def test_an_object_larger_than_a_tile_is_found_in_the_whole_image():
    image, boxes, labels = draw((600, 900), 60, 21)
    image[:, :480] = 0
    cv2.circle(image, (220, 300), 180, (0, 255, 0), -1)
    small = boxes[:, 0] >= 480
    found = predict_with(Blobs(128), image, size=128, overlap=0.25)
    check(found, np.vstack([boxes[small], [40, 120, 401, 481]]), np.append(labels[small], 0), 8.)


def predict_with(model, image, **settings):
    return predict_sliced(model, image, InputPipeline(model), 0., Slicing(**settings)).pred_instances


@pytest.mark.parametrize(('masks', 'boxes'), [(False, True), (True, False)])
def test_detectors_of_boxes_or_masks_alone(masks, boxes):
    image, wanted, labels = draw((300, 420), 50, 21)
    found = predict_with(Blobs(128, masks, boxes), image, size=128)
    assert ('masks' in found) == masks
    if not boxes:
        found.bboxes = found.masks.get_bboxes().tensor
    check(found, wanted, labels)


def test_masks_of_an_image_that_was_reduced(monkeypatch):
    monkeypatch.setattr('swin_pos_det.apis.slicing.MAX_VIEW_SIDE', 150)
    image = np.zeros((400, 600, 3), np.uint8)
    cv2.circle(image, (300, 200), 150, (0, 255, 0), -1)
    found = predict_with(Blobs(128), image, size=128)
    assert len(found) == 1
    mask = found.masks.to_ndarray()[0]
    truth = image[..., 1] > 128
    assert mask.shape == truth.shape and (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_a_small_image_is_run_as_without_slicing(detector, picture):
    pipeline = InputPipeline(detector)
    image = np.ascontiguousarray(picture[..., ::-1])
    plain, = predict_batch(detector, [image], pipeline, 0.1)
    sliced = predict_sliced(detector, image, pipeline, 0.1, Slicing(128))
    assert len(plain.pred_instances) > 3
    for key, value in plain.pred_instances.items():
        assert torch.equal(value, sliced.pred_instances[key]), key


def test_files(save, tmp_path):
    image, boxes, labels = draw((300, 420), 50, 21)
    paths = [save(image[..., ::-1].copy(), 'large.png'), save(image[:100, :100, ::-1].copy(), 'small.png')]
    report = predict_files(Blobs(128), paths, tmp_path / 'out', 4, 0.1, progress=False, slicing=Slicing(128))
    content = json.loads(report.json.read_text())
    large = [item for item in content['annotations'] if item['image_id'] == 1]
    assert len(large) == len(boxes) and report.detections > len(boxes)
    assert (np.sum([rle.decode(item['segmentation']) for item in large], 0) == (image.max(2) > 128)).all()
    drawn = cv2.imread(str(tmp_path / 'out/vis/large.png'))
    assert drawn.shape == image.shape and (np.abs(drawn.astype(int) - image).max(2) > 60).mean() > 0.02


def test_tiles_cover_the_image_and_overlap():
    for height, width in ((700, 1000), (257, 256), (1024, 300)):
        seen = np.zeros((height, width), int)
        tiles = Slicing(256, 0.25).tiles(height, width)
        for y, x, rows, columns in tiles:
            assert (rows, columns) == (min(256, height), min(256, width))
            assert y + rows <= height and x + columns <= width
            seen[y:y + rows, x:x + columns] += 1
        assert seen.min() == 1
        starts = sorted({tile.x for tile in tiles})
        assert all(256 - (b - a) >= 64 for a, b in zip(starts, starts[1:]))
    for settings in (dict(size=31), dict(size=64, overlap=0.95), dict(size=64, overlap=-0.1)):
        with pytest.raises(SettingError, match='of tiles must be'):
            Slicing(**settings)


@pytest.mark.parametrize(('second', 'cut', 'kept'), [
    ([0, 0, 10, 10], (False, False), [0]),  # the same object in two views
    ([0, 0, 10, 5.5], (False, False), [0]),  # IoU 0.55
    ([0, 0, 10, 4], (False, False), [0, 1]),  # a smaller object within another
    ([0, 0, 10, 4], (False, True), [0]),  # a part of it
    ([0, 0, 20, 10], (True, False), [1]),  # the whole object, though it scores less
    ([0, 6, 10, 20], (True, True), [0, 1])])  # parts that share little
def test_merging_two_detections(second, cut, kept):
    boxes = np.array([[0, 0, 10, 10], second], np.float32)
    scores, labels, cut = np.array([0.9, 0.6], np.float32), np.zeros(2, int), np.array(cut)
    assert merge_order(boxes, scores, labels, cut, np.array([0, 1])).tolist() == kept
    assert merge_order(boxes, scores, labels, cut, np.array([1, 1])).tolist() == [0, 1], 'one view'
    assert merge_order(boxes, scores, np.array([0, 1]), cut, np.array([0, 1])).tolist() == [0, 1], 'two classes'
