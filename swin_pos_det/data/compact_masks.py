"""Instance masks that keep only the rectangle around each object, equal in pixels to mmdet's ``BitmapMasks``.

A whole mask of a COCO image takes a third of a megabyte for each object, with a few percent of non-zero pixels, and is
resized, padded, pickled and copied as a whole.
"""
from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import mmcv
import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from torch import Tensor

from .masks import encode_crops


class Crop(NamedTuple):
    """The pixels of one mask from row ``y`` and column ``x`` on; everything outside is zero. Read-only."""

    y: int
    x: int
    pixels: np.ndarray  # (h, w)


def crop_of(mask: np.ndarray) -> Crop:
    """Cut the smallest rectangle that holds all non-zero pixels out of a mask (H, W)."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return Crop(0, 0, mask[:0, :0])
    inner = mask[rows[0]:rows[-1] + 1]
    columns = np.flatnonzero(inner.any(0))
    return Crop(int(rows[0]), int(columns[0]), np.ascontiguousarray(inner[:, columns[0]:columns[-1] + 1]))


def nearest(length: int, source: int) -> np.ndarray:
    """Return the source of each of ``length`` pixels, (length,) ascending, as ``cv2.INTER_NEAREST`` takes it."""
    step = 1 / (length / source)
    return np.minimum((np.arange(length) * step).astype(np.int64), source - 1)


class CompactMasks(BitmapMasks):
    """mmdet's ``BitmapMasks``, equal pixel for pixel in every operation, stored as one rectangle for each object.

    Loading, resizing, flipping, cropping, padding, indexing, copying and pickling use only the rectangles. Access
    to :attr:`masks` gives whole masks, which then replace the rectangles, as the array may be written to.

    Args:
        masks: (N, H, W) or a list of N arrays (H, W).
        height: H in pixels.
        width: W in pixels.
    """

    def __init__(self, masks: Union[np.ndarray, Sequence[np.ndarray]], height: int, width: int) -> None:
        whole = BitmapMasks(masks, height, width).masks
        self._set([crop_of(mask) for mask in whole], height, width, whole.dtype)

    @classmethod
    def from_crops(cls, crops: Sequence[Crop], height: int, width: int, dtype: Any = np.uint8) -> CompactMasks:
        """Make masks of rectangles that lie inside (height, width)."""
        masks = cls.__new__(cls)
        masks._set(list(crops), height, width, np.dtype(dtype))
        return masks

    def _set(self, crops: List[Crop], height: int, width: int, dtype: np.dtype) -> None:
        self.height, self.width, self.dtype = int(height), int(width), dtype
        self._crops, self._whole = crops, None

    def _like(self, crops: Sequence[Crop], height: int, width: int) -> CompactMasks:
        return self.from_crops(crops, height, width, self.dtype)

    @property
    def crops(self) -> List[Crop]:
        """Return the rectangles, made from the whole masks if these have been requested."""
        return [crop_of(mask) for mask in self._whole] if self._crops is None else self._crops

    @property
    def masks(self) -> np.ndarray:
        """Return (N, H, W) whole masks. They replace the rectangles, so that writing to them has an effect."""
        if self._whole is None:
            self._whole, self._crops = self.to_ndarray(), None
        return self._whole

    @masks.setter
    def masks(self, masks: np.ndarray) -> None:
        self._whole, self._crops, self.dtype = masks, None, masks.dtype

    def to_ndarray(self) -> np.ndarray:
        """Return a new array (N, H, W) of whole masks."""
        if self._whole is not None:
            return self._whole
        whole = np.zeros((len(self), self.height, self.width), self.dtype)
        for mask, (y, x, pixels) in zip(whole, self._crops):
            mask[y:y + pixels.shape[0], x:x + pixels.shape[1]] = pixels
        return whole

    def to_tensor(self, dtype: torch.dtype, device: Union[str, torch.device]) -> Tensor:
        """Return (N, H, W) on a device, with one copy of all rectangles' bytes to it."""
        crops = self.crops
        whole = torch.zeros(len(crops), self.height, self.width, dtype=dtype, device=device)
        if not crops:
            return whole
        flat = torch.from_numpy(np.concatenate([crop.pixels.ravel() for crop in crops])).to(device, non_blocking=True)
        parts = flat.split([crop.pixels.size for crop in crops])
        for mask, part, (y, x, pixels) in zip(whole, parts, crops):
            mask[y:y + pixels.shape[0], x:x + pixels.shape[1]] = part.view(pixels.shape)
        return whole

    def encode(self) -> List[Dict[str, Any]]:
        """Return run-length codes, as :func:`~swin_pos_det.data.masks.encode_masks` does."""
        return encode_crops(self.crops, self.height, self.width)

    def __len__(self) -> int:
        return len(self._whole if self._crops is None else self._crops)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.to_ndarray())

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_masks={len(self)}, height={self.height}, width={self.width})'

    def __getitem__(self, index: Any) -> CompactMasks:
        crops = self.crops
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        return self._like([crops[i] for i in np.atleast_1d(np.arange(len(crops))[index])], self.height, self.width)

    def __deepcopy__(self, memo: Dict[int, Any]) -> CompactMasks:
        if self._whole is None:
            return self._like(self._crops, self.height, self.width)  # rectangles are never written to
        copied = self._like([], self.height, self.width)
        copied.masks = self._whole.copy()
        return copied

    def __getstate__(self) -> Dict[str, Any]:
        """Return the rectangles as one array of bytes, of bits where the values are 0 and 1."""
        crops = self.crops
        flat = np.concatenate([crop.pixels.ravel() for crop in crops]) if crops else np.zeros(0, self.dtype)
        boxes = np.array([(y, x, *pixels.shape) for y, x, pixels in crops], np.int64).reshape(-1, 4)
        bits = self.dtype in (np.uint8, bool) and (not flat.size or flat.max() <= 1)
        return dict(boxes=boxes, pixels=np.packbits(flat) if bits else flat, bits=bits, height=self.height,
                    width=self.width, dtype=self.dtype)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        boxes, flat = state['boxes'], state['pixels']
        sizes = boxes[:, 2] * boxes[:, 3]
        if state['bits']:
            flat = np.unpackbits(flat, count=int(sizes.sum())).astype(state['dtype'], copy=False)
        parts = np.split(flat, np.cumsum(sizes)[:-1]) if len(sizes) else []
        crops = [Crop(int(y), int(x), part.reshape(h, w)) for part, (y, x, h, w) in zip(parts, boxes)]
        self._set(crops, state['height'], state['width'], state['dtype'])

    def rescale(self, scale: Union[float, Tuple[int, int]], interpolation: str = 'nearest') -> CompactMasks:
        """See ``BitmapMasks``."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: Tuple[int, int], interpolation: str = 'nearest') -> CompactMasks:
        """See ``BitmapMasks``. Other interpolations than 'nearest' use whole masks."""
        if interpolation != 'nearest':
            return self._by_whole_masks('resize', out_shape, interpolation)
        rows, columns = nearest(out_shape[0], self.height), nearest(out_shape[1], self.width)
        crops = []
        for y, x, pixels in self.crops:
            top, bottom = np.searchsorted(rows, (y, y + pixels.shape[0]))
            left, right = np.searchsorted(columns, (x, x + pixels.shape[1]))
            resized = pixels.take(rows[top:bottom] - y, 0).take(columns[left:right] - x, 1)
            crops.append(Crop(int(top), int(left), resized))
        return self._like(crops, *out_shape)

    def flip(self, flip_direction: str = 'horizontal') -> CompactMasks:
        """See ``BitmapMasks``."""
        assert flip_direction in ('horizontal', 'vertical', 'diagonal'), flip_direction
        crops = []
        for y, x, pixels in self.crops:
            if flip_direction != 'vertical':
                x, pixels = self.width - x - pixels.shape[1], pixels[:, ::-1]
            if flip_direction != 'horizontal':
                y, pixels = self.height - y - pixels.shape[0], pixels[::-1]
            crops.append(Crop(y, x, np.ascontiguousarray(pixels)))
        return self._like(crops, self.height, self.width)

    def pad(self, out_shape: Tuple[int, int], pad_val: int = 0) -> CompactMasks:
        """See ``BitmapMasks``. Padding with another value than 0 uses whole masks."""
        if pad_val or out_shape[0] < self.height or out_shape[1] < self.width:
            return self._by_whole_masks('pad', out_shape, pad_val)
        return self._like(self.crops, *out_shape)

    def crop(self, bbox: np.ndarray) -> CompactMasks:
        """See ``BitmapMasks``: keep what is inside ``bbox`` (x1, y1, x2, y2), at least one pixel wide and high."""
        x1, x2 = (int(side) for side in np.clip(bbox[0::2], 0, self.width))
        y1, y2 = (int(side) for side in np.clip(bbox[1::2], 0, self.height))
        return self._window(y1, x1, max(y2 - y1, 1), max(x2 - x1, 1))

    def expand(self, expanded_h: int, expanded_w: int, top: int, left: int) -> CompactMasks:
        """See ``BitmapMasks``."""
        return self._window(-int(top), -int(left), int(expanded_h), int(expanded_w))

    def _window(self, top: int, left: int, height: int, width: int) -> CompactMasks:
        """Return the values in a window of some size with its corner at (top, left), which may lie outside."""
        crops = []
        for y, x, pixels in self.crops:
            y, x = y - top, x - left
            pixels = pixels[max(-y, 0):max(height - y, 0), max(-x, 0):max(width - x, 0)]
            crops.append(Crop(max(y, 0), max(x, 0), pixels) if pixels.size else Crop(0, 0, pixels[:0, :0]))
        return self._like(crops, height, width)

    def crop_and_resize(self, bboxes: Union[np.ndarray, Tensor], out_shape: Tuple[int, int],
                        inds: Union[np.ndarray, Tensor], device: Union[str, torch.device] = 'cpu',
                        interpolation: str = 'bilinear', binarize: bool = True) -> BitmapMasks:
        """See ``BitmapMasks``, without a copy of the whole mask for each box."""
        boxes, inds = (torch.as_tensor(each, device=device) for each in (bboxes, inds))
        if not len(self) or not len(boxes):
            return BitmapMasks(np.empty((0, *out_shape), np.uint8), *out_shape)
        return BitmapMasks(self.targets(boxes, inds, out_shape, binarize).cpu().numpy(), *out_shape)

    def targets(self, boxes: Tensor, inds: Tensor, out_shape: Tuple[int, int], binarize: bool = True) -> Tensor:
        """Cut and resize masks on the device of ``boxes``, without synchronizing with it.

        Args:
            boxes: (P, 4) as x1, y1, x2, y2 in pixels, float.
            inds: (P,) int64, the mask of each box.
            out_shape: (h, w).
            binarize: return bool, else the averages of the boxes' dtype.

        Returns:
            (P, h, w).
        """
        masks = self.to_tensor(boxes.dtype, boxes.device).unsqueeze(1)
        rois = torch.cat([inds.to(boxes.dtype)[:, None], boxes], dim=1)
        found = roi_align(masks, rois, out_shape, 1.0, 0, 'avg', True).squeeze(1)
        return found >= 0.5 if binarize else found

    def translate(self, *args: Any, **kwargs: Any) -> CompactMasks:
        """See ``BitmapMasks``; by whole masks."""
        return self._by_whole_masks('translate', *args, **kwargs)

    def shear(self, *args: Any, **kwargs: Any) -> CompactMasks:
        """See ``BitmapMasks``; by whole masks."""
        return self._by_whole_masks('shear', *args, **kwargs)

    def rotate(self, *args: Any, **kwargs: Any) -> CompactMasks:
        """See ``BitmapMasks``; by whole masks."""
        return self._by_whole_masks('rotate', *args, **kwargs)

    def _by_whole_masks(self, operation: str, *args: Any, **kwargs: Any) -> CompactMasks:
        done = getattr(BitmapMasks(self.to_ndarray(), self.height, self.width), operation)(*args, **kwargs)
        return type(self)(done.masks, done.height, done.width)

    @property
    def areas(self) -> np.ndarray:
        """Return (N,) the number of pixels of each mask."""
        sums = np.zeros(0, self.dtype).sum().dtype
        return np.array([pixels.sum() for _, _, pixels in self.crops], sums)

    def get_bboxes(self, dst_type: str = 'hbox') -> Any:
        """See ``BitmapMasks``."""
        if dst_type != 'hbox':
            return BitmapMasks(self.to_ndarray(), self.height, self.width).get_bboxes(dst_type)
        boxes = np.zeros((len(self), 4), np.float32)
        for box, (y, x, pixels) in zip(boxes, self.crops):
            inner = crop_of(pixels)
            if inner.pixels.size:
                (height, width), left, top = inner.pixels.shape, x + inner.x, y + inner.y
                box[:] = left, top, left + width, top + height
        return HorizontalBoxes(boxes)

    @classmethod
    def cat(cls, masks: Sequence[BitmapMasks]) -> BitmapMasks:
        """See ``BitmapMasks``; if other kinds are among them, by whole masks."""
        if not masks:
            raise ValueError('masks should not be an empty list.')
        if not all(isinstance(each, cls) for each in masks):
            return BitmapMasks(np.concatenate([each.to_ndarray() for each in masks]), masks[0].height, masks[0].width)
        assert len({(each.height, each.width) for each in masks}) == 1, 'masks of different sizes'
        return masks[0]._like([crop for each in masks for crop in each.crops], masks[0].height, masks[0].width)
