"""A table of odd inputs to a detector: how each is made, what is expected, and what MMDetection does with it.

``expected`` is ``'found'`` (it is run, and gives what the plain image gives), ``'run'`` (it is run), or a regular
expression that the one line about it matches.
"""
from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import cv2
import numpy as np
from PIL import Image

PICTURE = np.stack([np.add.outer(np.arange(96) * a, np.arange(128) * b) for a, b in ((0, 2), (2.6, 0), (1, 1))],
                   2).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Odd:
    """A row of the table.

    Attributes:
        name: of the file, with the suffix that it has.
        make: writes it, or returns an array.
        expected: see above.
        mmdet: what MMDetection's ``inference_detector`` or ``image_demo.py`` does.
    """
    name: str
    make: Callable[[Path], Any]
    expected: str
    mmdet: str


def _pillow(mode: str = 'RGB', **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(PICTURE).convert(mode).save(path, **options)


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], np.ndarray]:
    return lambda path: change(np.ascontiguousarray(PICTURE[..., ::-1]))


def _opencv(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: cv2.imwrite(str(path), change(PICTURE[..., ::-1]))


def _cut(share: float, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        stream = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, format={'.jpg': 'JPEG', '.png': 'PNG', '.webp': 'WEBP'}[path.suffix],
                                    **options)
        path.write_bytes(stream.getvalue()[:int(share * stream.tell())])

    return make


def _exif(orientation: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = np.rot90(PICTURE, 1) if orientation == 6 else PICTURE[::-1, ::-1]
        Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, quality=100, subsampling=0)

    return make


def _named_otherwise(kind: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(PICTURE).save(path, format=kind)


def _animated(path: Path) -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1])]
    frames[0].save(path, save_all=True, append_images=frames[1:])


TRACEBACK = 'a traceback that does not name the file'
ODD: tuple[Odd, ...] = (
    Odd('plain.png', _pillow(), 'found', 'the same'),
    Odd('grey.png', _pillow('L'), 'run', 'the same'),
    Odd('one_bit.png', _pillow('1'), 'run', 'the same'),
    Odd('grey_alpha.png', _pillow('LA'), 'run', 'the same'),
    Odd('alpha.png', _pillow('RGBA'), 'found', 'the same'),
    Odd('palette.png', _pillow('P'), 'run', 'the same'),
    Odd('cmyk.jpg', _pillow('CMYK'), 'run', 'the same'),
    Odd('deep.png', _opencv(lambda image: image.astype(np.uint16) * 257), 'found', 'the same'),
    Odd('deep_grey.tif', _opencv(lambda image: image[..., 0].astype(np.uint16) * 257), 'run', 'the same'),
    Odd('upright.jpg', _exif(3), 'run', 'the same'),
    Odd('on_its_side.jpg', _exif(6), 'run', 'the same'),
    Odd('progressive.jpg', _pillow(progressive=True), 'run', 'the same'),
    Odd('png_named.jpg', _named_otherwise('PNG'), 'found', 'the same'),
    Odd('two_pages.tif', _animated, 'found', 'the same: the first page'),
    Odd('upper_case.PNG', _named_otherwise('PNG'), 'found', 'the same'),
    Odd('blanks and ünïcode 猫.png', _pillow(), 'found', 'the same'),
    Odd('one_pixel.png', _opencv(lambda image: image[:1, :1]), 'run', 'the same'),
    Odd('one_row.png', _opencv(lambda image: image[:1]), 'run', 'the same'),
    Odd('thin.png', _opencv(lambda image: np.zeros((2, 3000, 3), np.uint8)),
        r'cannot prepare an image of 3000x2 pixels', TRACEBACK),
    Odd('empty.jpg', lambda path: path.write_bytes(b''), r'empty.jpg is empty', TRACEBACK),
    Odd('text.jpg', lambda path: path.write_text('no image'), r'text.jpg is no image', TRACEBACK),
    Odd('page.png', lambda path: path.write_text('<html>404 not found</html>'), r'page.png is no image', TRACEBACK),
    Odd('cut.jpg', _cut(0.5), r'cut.jpg is damaged', 'runs on an image of which the lower half is grey'),
    Odd('cut.png', _cut(0.5), r'cut.png (is damaged|is not decodable)', 'runs on a half or stops, by the OpenCV'),
    Odd('cut.webp', _cut(0.5), r'cut.webp (is damaged|is not decodable|is no image)', TRACEBACK),
    Odd('header.jpg', _cut(0.01), r'header.jpg (is damaged|is no image)', TRACEBACK),
    Odd('folder.jpg', lambda path: path.mkdir(), r'folder.jpg does not exist', TRACEBACK),
    Odd('missing.jpg', lambda path: None, r'missing.jpg does not exist', 'a traceback'),
    Odd('array', _array(lambda bgr: bgr), 'found', 'the same'),
    Odd('array, grey', _array(lambda bgr: bgr[..., 0]), 'run', 'IndexError in the data preprocessor'),
    Odd('array, one channel', _array(lambda bgr: bgr[..., :1]), 'run', 'IndexError in the data preprocessor'),
    Odd('array, alpha', _array(lambda bgr: np.dstack([bgr, bgr[..., :1]])), 'found',
        'the same where the preprocessor swaps channels, a traceback else'),
    Odd('array, 16 bits', _array(lambda bgr: bgr.astype(np.uint16) * 257), 'found',
        'runs on values up to 65535: finds nothing or nonsense'),
    Odd('array, transposed memory', _array(np.asfortranarray), 'found', 'the same'),
    Odd('array, floats', _array(lambda bgr: bgr / 255), r'an image is .* got \(96, 128, 3\) float64',
        'runs on values of 0 to 1: finds nothing'),
    Odd('array, channels first', _array(lambda bgr: bgr.transpose(2, 0, 1)), r'an image is .* got \(3, 96, 128\) uint8',
        TRACEBACK),
    Odd('array, a batch', _array(lambda bgr: bgr[None]), r'an image is .* got \(1, 96, 128, 3\)', TRACEBACK),
    Odd('array, empty', _array(lambda bgr: bgr[:0]), r'an image is .* got \(0, 128, 3\)', TRACEBACK),
)
