"""Compose one image of the embedded data set: the places of its digits, their visible parts, and the pixels.

An image is first laid out (:func:`lay_out`), then painted (:func:`paint`). The two draw from separate random streams:
annotations follow from the layout alone, so nothing about a photograph's pixels can change them.
"""
from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

from .sources import DigitScans

LONG_SIDE = (192, 288)  # of an image, in px
MAX_ASPECT = 2.0
DIGIT_SIZE = (18, 126)  # asked of render_digit; the mask's longer side then lies within 16..128 px
COMMON_SIZE = (36, 96)  # most digits: a good size for a stride-4 detector
HEAP_SIZE = (18, 24)
KEEP_VISIBLE = 0.5  # the least visible share of a digit after covering and cutting
COVERING = .12  # of the digits are put over another one
CROSSING = .06  # of the digits may cross the border
CONTRAST = 90  # of 255: how much brighter a digit is than its background
CYCLE = 32  # of this many images in a row, one is empty and one holds a crowd
EMPTY_AT, CROWD_AT = 5, 21

INK_LEVEL = 96  # of 255: the threshold between paper and ink in the blurred 8x8 scan
MASK_LEVEL = 128  # alpha from which a pixel belongs to the digit's mask


@dataclass
class Digit:
    """One pasted digit.

    Attributes:
        label: 0-9.
        scan: index into scikit-learn's collection.
        alpha: (h, w) uint8, its opacity; at ``MASK_LEVEL`` and above a pixel is the digit's.
        x, y: left and top of ``alpha`` in the image, px; may be negative (cut by the border).
        instance: the annotation it belongs to, from 0; the digits of a heap share one.
    """
    label: int
    scan: int
    alpha: np.ndarray
    x: int = 0
    y: int = 0
    instance: int = -1


@dataclass
class Scene:
    """The layout of one image.

    Attributes:
        owner: (H, W) int16, the instance that each pixel shows, -1 for the photograph.
        photo: index of the photograph.
        digits: in the order in which they are painted.
        full_areas: px of each instance without covering and cutting.
        crowd: the instance that is a crowd region, or None.
    """
    owner: np.ndarray
    photo: int
    digits: list[Digit] = field(default_factory=list)
    full_areas: list[int] = field(default_factory=list)
    crowd: int | None = None


def render_digit(scan: np.ndarray, size: float, angle: float = 0., slant: float = 0.,
                 stretch: float = 1.) -> np.ndarray:
    """Enlarge a scan smoothly.

    Args:
        scan: (8, 8) uint8 ink.
        size: longer side of the ink, px.
        angle: turn, degrees.
        slant: horizontal shear, px per px.
        stretch: width over height, relative to the scan's.

    Returns:
        (h, w) uint8 alpha with a soft edge of about a pixel.
    """
    paper = np.pad(scan, 4)
    big = Image.fromarray(paper).resize((256, 256), Image.Resampling.BICUBIC)
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1 / stretch, slant], [0, 1]])
    offset = 128 - matrix @ (128, 128)
    affine = (*matrix[0], offset[0], *matrix[1], offset[1])
    big = big.transform(big.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)  # smooth already
    left, top, right, bottom = big.point(lambda ink: 255 * (ink >= INK_LEVEL)).getbbox()
    scale = size / max(right - left, bottom - top)
    margin = int(np.ceil(2 / scale))
    shape = (round((right - left + 2 * margin) * scale), round((bottom - top + 2 * margin) * scale))
    box = (left - margin, top - margin, right + margin, bottom + margin)
    small = np.asarray(big.crop(box).resize(shape, Image.Resampling.LANCZOS), dtype=np.float32)
    sharpen = max(1.5, size / 12)  # the blur of the scan grows with the size; undo that
    return np.clip(MASK_LEVEL + (small - INK_LEVEL) * sharpen, 0, 255).astype(np.uint8)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_digit(rng: np.random.Generator, scans: DigitScans, size: float, label: int | None = None) -> Digit:
    candidates = np.arange(len(scans.labels)) if label is None else np.flatnonzero(scans.labels == label)
    which = int(rng.choice(candidates))
    alpha = render_digit(scans.images[which], size, angle=rng.uniform(-6, 6), slant=rng.uniform(-.06, .06),
                         stretch=_log_uniform(rng, .92, 1.1))
    return Digit(int(scans.labels[which]), int(scans.indices[which]), alpha)


def _overlap(digit: Digit, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the image region that a digit's box covers, and (h, w) bool: its mask there."""
    h, w = digit.alpha.shape
    top, left, bottom, right = max(digit.y, 0), max(digit.x, 0), min(digit.y + h, height), min(digit.x + w, width)
    inside = digit.alpha[top - digit.y:bottom - digit.y, left - digit.x:right - digit.x]
    return (slice(top, bottom), slice(left, right)), inside >= MASK_LEVEL


def _fits(scene: Scene, digit: Digit, may_cover: bool) -> bool:
    """Return whether the digit at its place leaves itself and all others visible enough."""
    region, mask = _overlap(digit, *scene.owner.shape)
    if mask.sum() < KEEP_VISIBLE * (digit.alpha >= MASK_LEVEL).sum():
        return False
    covered = scene.owner[region][mask]
    covered = covered[covered >= 0]
    if covered.size and not may_cover:
        return False
    lost = np.bincount(covered, minlength=len(scene.full_areas))
    left = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.full_areas)) - lost
    return bool(np.all((left >= KEEP_VISIBLE * np.array(scene.full_areas)) | (lost == 0)))


def _add(scene: Scene, digit: Digit, instance: int) -> None:
    digit.instance = instance
    region, mask = _overlap(digit, *scene.owner.shape)
    scene.owner[region][mask] = instance
    scene.digits.append(digit)


def _place(rng: np.random.Generator, scene: Scene, digit: Digit) -> bool:
    """Find a place for the digit: mostly free, sometimes over another digit, sometimes across the border."""
    height, width = scene.owner.shape
    h, w = digit.alpha.shape
    may_cover = bool(scene.digits) and rng.random() < COVERING
    overhang = .3 if rng.random() < CROSSING else 0.
    for _ in range(25):
        if may_cover:
            under = scene.digits[int(rng.integers(len(scene.digits)))]
            digit.x = int(under.x + under.alpha.shape[1] / 2 - w / 2 + rng.uniform(-.7, .7) * w)
            digit.y = int(under.y + under.alpha.shape[0] / 2 - h / 2 + rng.uniform(-.7, .7) * h)
            if not (0 <= digit.x <= width - w and 0 <= digit.y <= height - h):
                continue
        else:
            digit.x = int(rng.uniform(-overhang * w, max(width - w + overhang * w, 1)))
            digit.y = int(rng.uniform(-overhang * h, max(height - h + overhang * h, 1)))
        if _fits(scene, digit, may_cover):
            scene.full_areas.append(int((digit.alpha >= MASK_LEVEL).sum()))
            _add(scene, digit, len(scene.full_areas) - 1)
            return True
    return False


def _add_heap(rng: np.random.Generator, scene: Scene, scans: DigitScans) -> None:
    """Add a crowd region: many small, overlapping digits of one class, annotated together."""
    height, width = scene.owner.shape
    label = int(rng.integers(10))
    spread = _log_uniform(rng, 14, 22)
    middle = np.array([rng.uniform(.3, .7) * width, rng.uniform(.3, .7) * height])
    for _ in range(int(rng.integers(12, 21))):
        digit = _draw_digit(rng, scans, rng.uniform(*HEAP_SIZE), label)
        h, w = digit.alpha.shape
        x, y = middle + rng.normal(0, spread, size=2) - (w / 2, h / 2)
        digit.x, digit.y = int(np.clip(x, 0, width - w)), int(np.clip(y, 0, height - h))
        _add(scene, digit, 0)
    scene.full_areas.append(int((scene.owner == 0).sum()))
    scene.crowd = 0


def lay_out(rng: np.random.Generator, index: int, scans: DigitScans, num_photos: int) -> Scene:
    """Choose an image's size, photograph and digits.

    Args:
        rng: random stream of this image's layout.
        index: the image's place in its split, from 0; it decides which images are empty and which hold a crowd.
        scans: digits to draw from.
        num_photos: photographs to choose from.
    """
    long, aspect = rng.uniform(*LONG_SIDE), _log_uniform(rng, 1 / MAX_ASPECT, MAX_ASPECT)
    width, height = (long, long / aspect) if aspect >= 1 else (long * aspect, long)
    scene = Scene(np.full((round(height), round(width)), -1, dtype=np.int16), int(rng.integers(num_photos)))
    if index % CYCLE == EMPTY_AT:
        return scene
    if index % CYCLE == CROWD_AT:
        _add_heap(rng, scene, scans)
    for _ in range(int(rng.integers(4, 9)) if scene.crowd is None else 3):
        low, high = COMMON_SIZE if rng.random() < .85 else DIGIT_SIZE
        size = _log_uniform(rng, low, min(high, .75 * min(height, width)))
        _place(rng, scene, _draw_digit(rng, scans, size))
    return scene


def _crop_photo(rng: np.random.Generator, photo: Image.Image, height: int, width: int) -> np.ndarray:
    """Return a random (height, width, 3) float32 crop of a photograph, 0-255, at a random zoom and tone."""
    least = max(height / photo.height, width / photo.width)
    zoom = _log_uniform(rng, max(least, .5), max(least, 1.2))
    w, h = min(width / zoom, photo.width), min(height / zoom, photo.height)
    x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    crop = photo.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    crop = np.asarray(crop, dtype=np.float32)
    if rng.random() < .5:
        crop = crop[:, ::-1]
    return crop * rng.uniform(.5, .8) * rng.uniform(.9, 1.05, size=3).astype(np.float32)


def _draw_tint(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """Return an RGB colour, 0-255, that is brighter than (N, 3) background pixels."""
    luma = np.array([.299, .587, .114])
    behind = background.mean(axis=0) @ luma if len(background) else 128.
    best, best_contrast = np.full(3, 255.), 0.
    for _ in range(30):
        tint = 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(.1, .9), rng.uniform(.75, 1)))
        contrast = tint @ luma - behind
        if contrast > best_contrast:
            best, best_contrast = tint, contrast
        if contrast > CONTRAST:
            break
    return best


def _blend(canvas: np.ndarray, alpha: np.ndarray, x: int, y: int, color: np.ndarray) -> None:
    """Paint ``color`` ((3,) or (h, w, 3)) through ``alpha`` (h, w, 0-1) into ``canvas``, in place."""
    height, width = canvas.shape[:2]
    h, w = alpha.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if top >= bottom or left >= right:
        return
    part = np.s_[top - y:bottom - y, left - x:right - x]
    weight = alpha[part][..., None]
    color = color[part] if color.ndim == 3 else color
    canvas[top:bottom, left:right] = canvas[top:bottom, left:right] * (1 - weight) + color * weight


def paint(rng: np.random.Generator, scene: Scene, photo: Image.Image) -> Image.Image:
    """Paint the scene as an RGB image: a crop of the photograph with tinted digits, some of which cast a shadow.

    Args:
        rng: random stream of this image's appearance.
        scene: of :func:`lay_out`.
        photo: the photograph behind it.
    """
    canvas = _crop_photo(rng, photo, *scene.owner.shape)
    for digit in scene.digits:
        region, mask = _overlap(digit, *scene.owner.shape)
        tint = _draw_tint(rng, canvas[region][mask])
        height, width = digit.alpha.shape
        if rng.random() < .5:
            blur = max(1, round(height / 24))
            soft = Image.fromarray(np.pad(digit.alpha, 3 * blur)).filter(ImageFilter.GaussianBlur(blur))
            shadow = np.asarray(soft, dtype=np.float32) * (.5 / 255)
            _blend(canvas, shadow, digit.x - 2 * blur, digit.y - 2 * blur, np.zeros(3))
        light = 1 + rng.uniform(-.25, .25) * np.linspace(-.5, .5, height)
        color = np.broadcast_to(np.clip(tint * light[:, None, None], 0, 255), (height, width, 3))
        _blend(canvas, digit.alpha.astype(np.float32) / 255 * rng.uniform(.88, 1), digit.x, digit.y, color)
    return Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))
