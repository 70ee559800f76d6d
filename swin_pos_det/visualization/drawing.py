"""Masks, boxes and names of classes, drawn with OpenCV."""
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .fonts import find_font, load_font
from .palette import Color, class_palette

Rect = tuple[int, int, int, int]  # x, y, width, height


class InstanceDrawer:
    """Draw instances on pictures, a colour for each class.

    Args:
        classes: names of the classes; labels index it. A label beyond its end is drawn as ``class 7``.
        palette: RGB colours of the classes; see :func:`~swin_pos_det.visualization.class_palette`.
        font: path of a font; see :func:`~swin_pos_det.visualization.find_font`.
        alpha: opacity of masks, in [0, 1].
        line_width: of boxes, in pixels. Default: depends on the size of the picture.
        mask_palette: RGB colours of masks by class. Default: ``palette``.
        text_palette: RGB colours of text by class. Default: black or white, by the background.
    """

    def __init__(self, classes: Sequence[str], palette: Optional[Sequence[Color]] = None,
                 font: Union[str, Path, None] = None, alpha: float = 0.45, line_width: Optional[int] = None,
                 mask_palette: Optional[Sequence[Color]] = None,
                 text_palette: Optional[Sequence[Color]] = None) -> None:
        self.classes = list(classes)
        self._palette = palette
        self._mask_palette = palette if mask_palette is None else mask_palette
        self._text_palette = text_palette
        self._font = find_font(self.classes, font)
        self._alpha = alpha
        self._line_width = line_width

    def draw(self, image: np.ndarray, labels: Sequence[int], boxes: Any = None, scores: Any = None, masks: Any = None,
             texts: Optional[Sequence[str]] = None, scale: float = 1.) -> np.ndarray:
        """Draw instances on a copy of an image.

        Args:
            image: RGB (H, W, 3), uint8.
            labels: (N,) places in ``classes``.
            boxes: (N, 4) as x1, y1, x2, y2 in pixels of the image. Default: those of the masks, which are not drawn.
            scores: (N,), written after the names.
            masks: (N, H, W), booleans or 0 and 1; or for each a rectangle, its first row, first column and pixels.
            texts: (N,) to write instead of names and scores; '' for nothing.
            scale: size of the picture over that of the image, of :func:`picture_scale`.

        Returns:
            The picture, RGB (round(scale * H), round(scale * W), 3), uint8.
        """
        labels = [int(label) for label in labels]
        picture = _resize(image, scale)
        line_width = self._line_width or max(1, round(_side(picture) / 600))
        colors = class_palette(max(labels, default=-1) + 1, self._palette)
        rects: list[Rect] = []
        if masks is not None:
            mask_colors = class_palette(len(colors), self._mask_palette)
            regions = [_region(mask, scale, picture.shape) for mask in masks]
            rects = [rect for rect, _ in regions]
            # The large ones first, so that they do not hide small ones.
            for index in sorted(range(len(labels)), key=lambda index: -rects[index][2] * rects[index][3]):
                _draw_mask(picture, *regions[index], mask_colors[labels[index]], self._alpha, line_width)
        if boxes is not None:
            rects = [_rect(box, scale, picture.shape) for box in np.asarray(boxes, dtype=float)]
            for rect, label in zip(rects, labels):
                _draw_box(picture, rect, colors[label], line_width)
        texts = self._texts(labels, scores) if texts is None else texts
        self._draw_texts(picture, rects, labels, texts, colors, line_width)
        return picture

    def _texts(self, labels: Sequence[int], scores: Any) -> list[str]:
        names = [self.classes[label] if label < len(self.classes) else f'class {label}' for label in labels]
        return names if scores is None else [f'{name} {float(score):.2f}' for name, score in zip(names, scores)]

    def _draw_texts(self, picture: np.ndarray, rects: Sequence[Rect], labels: Sequence[int], texts: Sequence[str],
                    colors: Sequence[Color], line_width: int) -> None:
        size = max(12, round(_side(picture) / 75))
        text_colors = None if self._text_palette is None else class_palette(len(colors), self._text_palette)
        taken: list[Rect] = []
        for rect, label, text in zip(rects, labels, texts):
            if not text:
                continue
            stencil = _stencil(text, self._font, size)
            place = _place(rect, stencil.shape, picture.shape, taken, line_width)
            taken.append(place)
            color = colors[label]
            _draw_stencil(picture, place, stencil, color, text_colors[label] if text_colors else _contrasting(color))


def picture_scale(shape: Sequence[int], at_least: int = 0, at_most: int = 0) -> float:
    """Return the factor that brings the longer side of an image into a range.

    Args:
        shape: (H, W, ...) of the image.
        at_least: minimum of the longer side in pixels. An enlargement is by a whole number.
        at_most: maximum of the longer side in pixels; 0: no limit.
    """
    longer = max(shape[:2])
    if at_most and longer > at_most:
        return at_most / longer
    return float(max(1, -(-at_least // longer)))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert a loaded image to one for display.

    Args:
        image: (H, W) or (H, W, C), BGR order if C is 3 or more. Of more than three channels the first three are
            taken, of two the first. Values beyond 255 are scaled to the image's maximum.

    Returns:
        RGB (H, W, 3), uint8.
    """
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., 2::-1] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    if image.dtype != np.uint8:
        brightest = float(image.max(initial=0))
        image = (image * (255 / brightest) if brightest > 255 else image).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def _resize(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return image.copy()
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _side(picture: np.ndarray) -> float:
    """Return the side of the square with the picture's area."""
    return (picture.shape[0] * picture.shape[1])**0.5


def _rect(box: np.ndarray, scale: float, shape: Sequence[int]) -> Rect:
    """Return a box as pixels of the picture, cut at its border, at least one pixel wide and high."""
    box = np.nan_to_num(box * scale, posinf=2**30, neginf=-2**30)
    (x1, x2), (y1, y2) = (np.clip(box[axis::2].round(), 0, shape[1 - axis] - 1).astype(int) for axis in (0, 1))
    return int(x1), int(y1), max(1, int(x2 - x1)), max(1, int(y2 - y1))


def _region(mask: Any, scale: float, shape: Sequence[int]) -> tuple[Rect, np.ndarray]:
    """Return the part of the picture that a mask covers, and the mask there, uint8."""
    above, before, mask = mask if isinstance(mask, tuple) else (0, 0, mask)
    mask = np.ascontiguousarray(mask)
    mask = mask.view(np.uint8) if mask.dtype == bool else (mask != 0).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask) if mask.size else (0, 0, 0, 0)
    crop = mask[y:y + height, x:x + width]
    x, y = x + before, y + above
    if scale == 1 or not crop.size:
        return (x, y, width, height), crop
    left, top = int(x * scale), int(y * scale)
    width = min(max(1, round(width * scale)), shape[1] - left)
    height = min(max(1, round(height * scale)), shape[0] - top)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(crop * np.uint8(255), (width, height), interpolation=interpolation)
    return (left, top, width, height), (resized > 127).astype(np.uint8)


def _draw_mask(picture: np.ndarray, rect: Rect, mask: np.ndarray, color: Color, alpha: float, line_width: int) -> None:
    x, y, width, height = rect
    if not mask.size:
        return
    under = picture[y:y + height, x:x + width]
    filled = cv2.addWeighted(under, 1 - alpha, np.full_like(under, color), alpha, 0)
    np.copyto(under, filled, where=mask[..., None].astype(bool))
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, color, max(1, line_width // 2), cv2.LINE_AA, offset=(x, y))


def _draw_box(picture: np.ndarray, rect: Rect, color: Color, line_width: int) -> None:
    x, y, width, height = rect
    cv2.rectangle(picture, (x, y), (x + width, y + height), color, line_width)


@functools.lru_cache(maxsize=1024)
def _stencil(text: str, font: str, size: int) -> np.ndarray:
    """Return opacity (h, w) of a text with a small margin, in [0, 255]."""
    loaded = load_font(font, size)
    ascent, descent = loaded.getmetrics()
    image = Image.new('L', (int(loaded.getlength(text)) + size // 2, ascent + descent))
    ImageDraw.Draw(image).text((size // 4, 0), text, fill=255, font=loaded)
    return np.asarray(image)


def _place(rect: Rect, text: Sequence[int], shape: Sequence[int], taken: Sequence[Rect], line_width: int) -> Rect:
    """Return where a text of size (h, w) overlaps other texts least: above, in or below a box, left or right."""
    x, y, width, height = rect
    tall, wide = text
    lefts = (x - line_width // 2, x + width - wide)
    tops = (y - tall, y, y + height, y + height - tall)
    best, least = None, None
    for rank, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        inside = (max(0, min(left, shape[1] - wide)), max(0, min(top, shape[0] - tall)))
        place = (*inside, wide, tall)
        covered = sum(_overlap(place, other) for other in taken)
        # A place that was moved into the picture counts like one that was inside from the start.
        if least is None or (covered, rank) < least:
            best, least = place, (covered, rank)
        if covered == 0:
            break
    return best


def _overlap(one: Rect, other: Rect) -> int:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def _draw_stencil(picture: np.ndarray, place: Rect, stencil: np.ndarray, background: Color, color: Color) -> None:
    x, y, width, height = place
    under = picture[y:y + height, x:x + width]
    opacity = stencil[:under.shape[0], :under.shape[1], None].astype(np.uint16)
    under[:] = (opacity * np.uint16(color) + (255 - opacity) * np.uint16(background)) // 255


def _contrasting(color: Color) -> Color:
    """Return black for light colours, white for dark ones."""
    return (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
