"""The number of tokens that windows process on the images of a data set, including padding."""
from __future__ import annotations

import json
from typing import Dict, Iterable, List, Sequence

from mmcv import rescale_size

from ...layers import WindowRule
from ...ops.windows import Pair


def resized_images(annotations: str, scale: Pair, divisor: int = 32) -> List[Pair]:
    """Return the sizes (h, w) in pixels at which MMDet would run the images of a COCO annotation file, one by one.

    Args:
        annotations: path of the file.
        scale: of the keep-ratio ``Resize``, such as (1333, 800).
        divisor: the data preprocessor's ``pad_size_divisor``.
    """
    with open(annotations, encoding='utf-8') as file:
        images = json.load(file)['images']
    sizes = [rescale_size((image['width'], image['height']), scale) for image in images]
    return [(-(-height // divisor) * divisor, -(-width // divisor) * divisor) for width, height in sizes]


def map_sizes(image: Pair, strides: Sequence[int] = (4, 2, 2, 2)) -> List[Pair]:
    """Return the feature map (h, w) in tokens of each stage."""
    maps, (height, width) = [], image
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
        maps.append((height, width))
    return maps


def count_tokens(images: Iterable[Pair], window: int, policy: str, depths: Sequence[int] = (2, 2, 6, 2)) -> List[int]:
    """Return tokens that the blocks of each stage process, padding included, summed over images and blocks.

    Args:
        images: (h, w) in pixels.
        window: nominal window.
        policy: 'fixed' or 'fit'.
        depths: blocks of each stage.
    """
    rule = WindowRule((window, window), policy)
    totals = [0] * len(depths)
    for image in images:
        for stage, size in enumerate(map_sizes(image)):
            sides = rule.window(size)
            padded = [-(-length // side) * side for length, side in zip(size, sides)]
            totals[stage] += depths[stage] * padded[0] * padded[1]
    return totals


def token_table(images: Sequence[Pair], windows: Sequence[int]) -> List[Dict[str, float]]:
    """Return, for each window, the padding of 'fixed' and 'fit', and the saving of 'fit'.

    Returns:
        A row per window: ``window``; ``fixed`` and ``fit``: processed tokens over those of the maps, minus 1;
        ``saved``: the share of the tokens of 'fixed' that 'fit' does not process; ``never_more``: whether that holds
        on every single image and stage.
    """
    exact = sum(count_tokens(images, 1, 'fixed'))
    rows = []
    for window in windows:
        fixed, fit = ([count_tokens([image], window, policy) for image in images] for policy in ('fixed', 'fit'))
        total_fixed, total_fit = sum(map(sum, fixed)), sum(map(sum, fit))
        rows.append(dict(
            window=window,
            fixed=total_fixed / exact - 1,
            fit=total_fit / exact - 1,
            saved=1 - total_fit / total_fixed,
            never_more=all(b <= a for one, other in zip(fixed, fit) for a, b in zip(one, other))))
    return rows
