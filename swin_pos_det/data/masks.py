"""Run-length masks: encode them, and check them before pycocotools, which hangs on wrong ones, reads them."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Optional

import cv2
import numpy as np
from pycocotools import mask as rle

# Masks that are decoded at once: enough for efficient NumPy, few enough for about 100 MB.
_BATCH = 8192
# Six bits of a character: five of the number, then whether another character follows. 7 characters hold 32 bits.
_MAX_CHARACTERS = 7


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Encode masks as pycocotools does, to the byte, in a fraction of the time.

    pycocotools copies each mask into column order and looks at every pixel. Here only the rectangle that holds the
    object is looked at, and the runs found there are placed in the whole image.

    Args:
        masks: (N, H, W), booleans or numbers, of which those other than 0 are the object.

    Returns:
        N dicts with ``size``, [H, W], and ``counts``, bytes.
    """
    return encode_crops(((0, 0, mask) for mask in masks), *masks.shape[1:])


def encode_crops(crops: Iterable[tuple[int, int, np.ndarray]], height: int, width: int) -> list[dict[str, Any]]:
    """Encode masks of which the rectangles around the objects are given, as :func:`encode_masks` does whole ones.

    Args:
        crops: of each mask the first row, the first column, and the pixels (h, w).
        height, width: of the image.
    """
    found = [dict(size=[height, width], counts=_run_lengths(*crop, height, width)) for crop in crops]
    return rle.frPyObjects(found, height, width) if found else []


def _run_lengths(top: int, left: int, mask: np.ndarray, height: int, width: int) -> list[int]:
    """Lengths of the runs of 0 and 1, in turn, down the columns of an image; the first are zeros."""
    if not mask.size:
        return [height * width]
    mask = np.ascontiguousarray(mask)
    mask = mask.view(np.uint8) if mask.dtype == bool else (mask != 0).view(np.uint8)
    x, y, columns, rows = cv2.boundingRect(mask)
    # Each column with a 0 above and below: every run of ones starts and ends within it.
    framed = np.zeros((columns, rows + 2), np.int8)
    framed[:, 1:-1] = mask[y:y + rows, x:x + columns].T != 0
    column, row = np.nonzero(np.diff(framed))
    edges = (left + x + column) * height + top + y + row  # starts and ends in turn, in the order of the whole image
    if rows == height:  # runs that reach from one column into the next
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
        edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    lengths = np.diff(edges, prepend=0, append=height * width)
    return lengths[:-1 if len(edges) and lengths[-1] == 0 else None].tolist()


def rle_problems(masks: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Find run-length masks that are invalid or do not fit their images.

    pycocotools checks nothing: a mask of another size has IoU -1 with everything, counts that do not add up to the
    image shift what follows or never end, and other characters read past the end of the text.

    Args:
        masks: N masks as in COCO's JSON: dicts with ``size`` (height, width) and ``counts``, a text (compressed) or a
            list of numbers.
        sizes: N (height, width), of the image of each.

    Returns:
        For each wrong mask its index in ``masks`` and what is wrong, to follow the words "the mask" or
        "segmentation": ``'has size [3, 4], but the image is 4 x 3 (height x width)'``.
    """
    problems: dict[int, str] = {}
    compressed: list[int] = []
    for index, (mask, size) in enumerate(zip(masks, sizes)):
        problem = _form_problem(mask, size)
        if problem is None and isinstance(mask['counts'], list):
            problem = _sum_problem(sum(mask['counts']), size)
        elif problem is None:
            compressed.append(index)
        if problem is not None:
            problems[index] = problem
    for start in range(0, len(compressed), _BATCH):
        batch = compressed[start:start + _BATCH]
        totals = _pixel_counts([_as_bytes(masks[index]['counts']) for index in batch])
        for index, total in zip(batch, totals.tolist()):
            problem = _sum_problem(total, sizes[index])
            if problem is not None:
                problems[index] = problem
    return dict(sorted(problems.items()))


def _form_problem(mask: Any, size: tuple[int, int]) -> Optional[str]:
    if not isinstance(mask, dict) or 'counts' not in mask or 'size' not in mask:
        return f'is no run-length mask, a dict with size and counts, but a {type(mask).__name__}'
    height, width = size
    found = mask['size']
    if not isinstance(found, (list, tuple)) or list(found) != [height, width]:
        swapped = ': they are swapped' if isinstance(found, (list, tuple)) and list(found) == [width, height] else ''
        return f'has size {_short(found)}, but the image is {height} x {width} (height x width){swapped}'
    counts = mask['counts']
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return 'has counts that are not all whole numbers from 0 on'
    elif not isinstance(counts, (str, bytes)):
        return f'has counts that are neither text nor a list, but a {type(counts).__name__}'
    return None


def _sum_problem(total: int, size: tuple[int, int]) -> Optional[str]:
    if total < 0:
        return 'has counts that are no run-length code'
    pixels = size[0] * size[1]
    return None if total == pixels else f'has counts that add up to {total} pixels, but the image has {pixels}'


def _as_bytes(counts: Any) -> bytes:
    # UTF-8 bytes of other characters are outside of the 64 that the code has.
    return counts if isinstance(counts, bytes) else counts.encode(errors='surrogatepass')


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f'{text[:37]}...'


def _pixel_counts(texts: Sequence[bytes]) -> np.ndarray:
    """Decode compressed counts as pycocotools' ``rleFrString`` does; (N,) sums, -1 for invalid codes."""
    totals = np.zeros(len(texts), np.int64)
    codes = np.frombuffer(b''.join(texts), np.uint8).astype(np.int64) - 48
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    wrong = np.zeros(len(texts), bool)
    wrong[owners[(codes < 0) | (codes > 63)]] = True
    wrong[[index for index, text in enumerate(texts) if text and (text[-1] - 48) & 32]] = True
    kept = ~wrong[owners]
    codes, owners = codes[kept], owners[kept]
    if len(codes):
        values, owners = _numbers(codes, owners, wrong)
        counts = _undo_differences(values, owners)
        wrong[owners[counts < 0]] = True
        np.add.at(totals, owners, counts)
    totals[wrong] = -1
    return totals


def _numbers(codes: np.ndarray, owners: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join characters to signed numbers: (V,) numbers and their masks. Mark masks with too long ones."""
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    wrong[owners[ends[lengths > _MAX_CHARACTERS]]] = True
    places = np.minimum(np.arange(len(codes)) - np.repeat(starts, lengths), _MAX_CHARACTERS)
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    negative = (codes[ends] & 16) > 0
    values[negative] -= 1 << (5 * np.minimum(lengths[negative], _MAX_CHARACTERS))
    return values, owners[ends]


def _undo_differences(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Undo the differences of (V,) run lengths: from the third on, each is relative to the one two before."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    numbers = np.diff(np.append(first, len(values)))
    index = np.arange(len(values)) - np.repeat(first, numbers)  # of a number in its mask
    # Pairs in rows, each mask from a row of its own on: a sum down a column is one over every other number.
    rows = (numbers + 1) // 2
    starts = np.cumsum(rows) - rows
    pairs = np.zeros((rows.sum(), 2), np.int64)
    places = 2 * np.repeat(starts, numbers) + index
    pairs.flat[places] = np.where(index == 0, 0, values)
    sums = pairs.cumsum(axis=0)
    before = np.where(starts[:, None] > 0, sums[starts - 1], 0)
    sums -= np.repeat(before, rows, axis=0)
    return np.where(index == 0, values, sums.flat[places])
