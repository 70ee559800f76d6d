"""Large images in tiles, so that small objects keep their size: sliced inference."""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from ..data.compact_masks import CompactMasks, Crop, crop_of
from ..errors import SettingError
from .inference import predict_batch
from .pipeline import InputPipeline

# Two detections of a class from different views are one object above this overlap.
MERGE_THRESHOLD = 0.5
# A detection that ends this close to an inner border of its tile, as a share of the tile, is taken to be cut there.
CUT_MARGIN = 0.01
# A cut detection ranks by its score times this, so that the whole object is kept if another view shows it.
CUT_WEIGHT = 0.5
# Longer side of the view of the whole image, in pixels: its masks, before they are reduced to rectangles, take this
# squared for each object.
MAX_VIEW_SIDE = 2048
_MIN_SIZE = 32
_MAX_OVERLAP = 0.9


class Tile(NamedTuple):
    """The part of an image from row ``y`` and column ``x`` on."""
    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True)
class Slicing:
    """Size and overlap of the tiles of a large image.

    Attributes:
        size: side of the square tiles, in pixels of the image; at least 32.
        overlap: of neighbours, as a share of their side, from 0 to 0.9. Objects smaller than it are whole in a tile.

    Raises:
        SettingError: if one is out of range.
    """
    size: int
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.size < _MIN_SIZE:
            raise SettingError(f'the size of tiles must be at least {_MIN_SIZE} pixels, got {self.size}')
        if not 0 <= self.overlap <= _MAX_OVERLAP:
            raise SettingError(f'the overlap of tiles must be in [0, {_MAX_OVERLAP}], got {self.overlap:g}')

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image, row by row; the last of a row or column are moved inside the image."""
        return [Tile(y, x, min(self.size, height), min(self.size, width))
                for y in self._starts(height) for x in self._starts(width)]

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(1, round(self.size * (1 - self.overlap)))
        return [*range(0, length - self.size, step), length - self.size]


def predict_sliced(model: nn.Module, image: np.ndarray, pipeline: InputPipeline, score_threshold: float,
                   slicing: Slicing, batch_size: int = 1) -> DetDataSample:
    """Detect objects in an image that ``pipeline`` has read, tile by tile.

    The detector sees overlapping tiles and the whole image, reduced to 2048 pixels if it is larger: it shows the
    objects that are larger than a tile. Detections of one class in different views that overlap are one object, see
    :func:`merge_order`. An image no larger than a tile is run as without slicing.

    Args:
        model, pipeline, score_threshold: as of :func:`~swin_pos_det.apis.inference.predict_batch`.
        image: (H, W) or (H, W, C).
        slicing: the tiles.
        batch_size: tiles at once.

    Returns:
        As :func:`~swin_pos_det.apis.predict`, in pixels of the whole image. The masks of an image that was cut are
        :class:`~swin_pos_det.data.compact_masks.CompactMasks`: a rectangle for each object, as whole masks of a
        large image would take gigabytes.
    """
    height, width = image.shape[:2]
    if max(height, width) <= slicing.size:
        return predict_batch(model, [image], pipeline, score_threshold)[0]
    factor = min(1., MAX_VIEW_SIDE / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    view = image if factor == 1 else cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    sample, = predict_batch(model, [view], pipeline, score_threshold)
    found = [_enlarge(_compact(sample.pred_instances), (height, width), view.shape[:2])]
    tiles = slicing.tiles(height, width)
    for start in range(0, len(tiles), batch_size):
        batch = tiles[start:start + batch_size]
        parts = [np.ascontiguousarray(image[y:y + h, x:x + w]) for y, x, h, w in batch]
        samples = predict_batch(model, parts, pipeline, score_threshold)
        found += [_place(_compact(each.pred_instances), tile, (height, width)) for each, tile in zip(samples, batch)]
    sample.pred_instances = _merge(found, (height, width))
    sample.set_metainfo(dict(ori_shape=(height, width),
                             scale_factor=(sample.img_shape[1] / width, sample.img_shape[0] / height)))
    return sample


def merge_order(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, cut: np.ndarray,
                views: np.ndarray) -> np.ndarray:
    """Choose one detection of each object among those of several views, by non-maximum suppression across views.

    The detection of the highest rank is kept, and those of its class in other views that overlap it go, and so on.
    Overlap is the intersection over the union; over the smaller box where one of the two is cut by the border of a
    tile, as it then is a part of the other. Detections of the same view never replace each other: the detector has
    separated them.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2.
        scores: (N,). They are the ranks, halved for cut detections.
        labels: (N,) integers.
        cut: (N,) booleans.
        views: (N,) integers.

    Returns:
        Indices of the kept detections, by falling score.
    """
    kept: list[int] = []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for label in np.unique(labels):
        rest = np.flatnonzero(labels == label)
        rest = rest[np.argsort(-scores[rest] * np.where(cut[rest], CUT_WEIGHT, 1.), kind='stable')]
        while len(rest):
            best, rest = rest[0], rest[1:]
            kept.append(int(best))
            sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
            common = np.prod(sides.clip(min=0), axis=1)
            smaller, both = np.minimum(areas[best], areas[rest]), areas[best] + areas[rest] - common
            overlap = common / np.maximum(np.where(cut[best] | cut[rest], smaller, both), 1e-9)
            rest = rest[(overlap < MERGE_THRESHOLD) | (views[rest] == views[best])]
    order = np.array(kept, np.int64)
    return order[np.argsort(-scores[order], kind='stable')]


class _Found(NamedTuple):
    """Detections of one view: a tile or the whole image."""
    boxes: np.ndarray  # (N, 4)
    scores: np.ndarray
    labels: np.ndarray
    crops: Optional[list[Crop]]
    cut: np.ndarray  # (N,) booleans


def _compact(instances: InstanceData) -> _Found:
    boxes = instances.bboxes.float().numpy()
    crops = [crop_of(mask) for mask in instances.masks.numpy()] if 'masks' in instances else None
    if crops and not boxes.any():  # detectors without boxes, as SOLO, give zeros
        boxes = np.array([(x, y, x + mask.shape[1], y + mask.shape[0]) for y, x, mask in crops], np.float32)
    return _Found(boxes, instances.scores.numpy(), instances.labels.numpy(), crops, np.zeros(len(boxes), bool))


def _place(found: _Found, tile: Tile, shape: tuple[int, int]) -> _Found:
    """Move what was found in a tile to its place in an image (H, W)."""
    crops = found.crops and [Crop(crop.y + tile.y, crop.x + tile.x, crop.pixels) for crop in found.crops]
    boxes = found.boxes + np.array([tile.x, tile.y] * 2, np.float32)
    starts, sides = np.array([tile.x, tile.y]), np.array([tile.width, tile.height])
    margin = np.maximum(2, CUT_MARGIN * sides)
    cut = (boxes[:, :2] < starts + margin) & (starts > 0)
    cut |= (boxes[:, 2:] > starts + sides - margin) & (starts + sides < shape[::-1])
    return found._replace(boxes=boxes, crops=crops, cut=cut.any(axis=1))


def _enlarge(found: _Found, shape: tuple[int, int], seen: tuple[int, int]) -> _Found:
    """Bring what was found in a reduced image (h, w) to the size of the image (H, W)."""
    if shape == seen:
        return found
    y_factor, x_factor = shape[0] / seen[0], shape[1] / seen[1]
    crops = found.crops and [_enlarge_crop(crop, y_factor, x_factor) for crop in found.crops]
    return found._replace(boxes=found.boxes * np.array([x_factor, y_factor] * 2, np.float32), crops=crops)


def _enlarge_crop(crop: Crop, y_factor: float, x_factor: float) -> Crop:
    y, x, pixels = crop
    top, left = round(y * y_factor), round(x * x_factor)
    size = (round((x + pixels.shape[1]) * x_factor) - left, round((y + pixels.shape[0]) * y_factor) - top)
    if not pixels.size:
        return Crop(0, 0, pixels)
    larger = cv2.resize(pixels.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR)
    return Crop(top, left, larger > 127)


def _merge(found: list[_Found], shape: tuple[int, int]) -> InstanceData:
    """Return the objects of an image (H, W), each once."""
    boxes, scores, labels, cut = (np.concatenate([getattr(view, name) for view in found])
                                  for name in ('boxes', 'scores', 'labels', 'cut'))
    views = np.repeat(np.arange(len(found)), [len(view.scores) for view in found])
    order = merge_order(boxes, scores, labels, cut, views)
    merged = InstanceData(bboxes=torch.from_numpy(boxes[order]), scores=torch.from_numpy(scores[order]),
                          labels=torch.from_numpy(labels[order]))
    if found[0].crops is not None:
        crops = [crop for view in found for crop in view.crops or ()]
        merged.masks = CompactMasks.from_crops([crops[index] for index in order], *shape, bool)
    return merged
