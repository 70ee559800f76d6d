"""Images as detectors take them, whatever they are stored as."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

ImageLike = Union[str, Path, np.ndarray]


class ImageError(UserError, ValueError):
    """An image cannot be used; the message names it, if it is a file, and says why."""


def read_image(image: ImageLike, loader: Callable[[dict], Any]) -> np.ndarray:
    """Reads an image file, or checks an array.

    Files are turned upright as their EXIF says, grey becomes three equal channels, transparency is dropped, and of 16
    bits the upper 8 are kept: all as the config's loader does in training, which is OpenCV unless the config says
    otherwise. Truncated files are refused, also by versions of OpenCV that would fill up what is missing.

    Args:
        image: a path; or (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in BGR or BGRA order, uint8 or uint16.
        loader: mmcv's ``LoadImageFromFile`` as the config sets it up.

    Returns:
        (H, W, 3) BGR uint8; what else ``loader`` makes of files.

    Raises:
        ImageError: if it is no image, damaged, or an array of another kind.
    """
    if isinstance(image, np.ndarray):
        return _as_bgr(image)
    _check_file(Path(image))
    try:
        return loader(dict(img_path=str(image)))['img']
    except (AssertionError, OSError, ValueError, cv2.error) as error:
        raise ImageError(f'{image} cannot be decoded ({_first_line(error)})') from error


def _as_bgr(array: np.ndarray) -> np.ndarray:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape or array.dtype not in (
            np.uint8, np.uint16):
        raise ImageError('an image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), BGR, uint8 or uint16; got '
                         f'{array.shape} {array.dtype}')
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])


def _check_file(path: Path) -> None:
    """Raises ``ImageError`` unless Pillow decodes the file to its end, or knows neither its format nor its size."""
    if not path.is_file():
        raise ImageError(f'{path} does not exist')
    try:
        with Image.open(path) as opened:
            opened.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        # OpenCV reads a few formats that Pillow does not, and images larger than Pillow's limit.
        if not cv2.haveImageReader(str(path)):
            raise ImageError(f'{path} is empty' if path.stat().st_size == 0 else f'{path} is no image') from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f'{path} is damaged ({_first_line(error)})') from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
