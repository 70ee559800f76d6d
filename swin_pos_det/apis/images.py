"""Images in the form that detectors take, from any file format or array."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Sequence, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

ImageLike = Union[str, Path, np.ndarray, Sequence[Union[str, Path]]]


class ImageError(UserError, ValueError):
    """An image is unusable; the message names it, if it is a file, and says why."""


def read_image(image: ImageLike, loader: Callable[[dict], Any]) -> np.ndarray:
    """Read an image file, or convert an array to the result of reading such a file.

    The config's loader defines the result, as in training. With its usual ``color_type='color'``, files are turned
    upright by their EXIF, grey becomes three equal channels, transparency is dropped, and the upper 8 of 16 bits are
    kept; ``'grayscale'`` gives one channel; ``'unchanged'`` keeps channels and bits. Truncated files are refused, also
    with versions of OpenCV that would fill the missing part.

    Args:
        image: a path; an array (H, W) or (H, W, C), BGR or BGRA order, uint8 or uint16, with ``'unchanged'`` also
            float32 and any number of channels; or, for ``LoadMultiChannelImageFromFiles``, the paths of the channels
            or the folder that holds them, in the order of their names.
        loader: ``LoadImageFromFile`` or ``LoadMultiChannelImageFromFiles`` as configured.

    Returns:
        (H, W) or (H, W, C).

    Raises:
        ImageError: if it is not an image, damaged, or an array of another kind.
    """
    if isinstance(image, np.ndarray):
        return _convert(image, 'unchanged' if is_multi_channel(loader) else getattr(loader, 'color_type', 'color'))
    paths = _channel_files(image) if is_multi_channel(loader) else [image]
    if not isinstance(image, (str, Path)) and not is_multi_channel(loader):
        raise ImageError(f'one path was expected, got {len(image)}: only LoadMultiChannelImageFromFiles reads several')
    for path in paths:
        check_file(Path(path))
    try:
        return loader(dict(img_path=[str(path) for path in paths] if is_multi_channel(loader) else str(image)))['img']
    except (AssertionError, OSError, ValueError, cv2.error) as error:
        raise ImageError(f'{image} is not decodable ({_first_line(error)})') from error


def is_multi_channel(loader: Callable[[dict], Any]) -> bool:
    """Return whether a loader reads a file per channel."""
    return type(loader).__name__ == 'LoadMultiChannelImageFromFiles'


def _channel_files(image: Union[str, Path, Sequence[Union[str, Path]]]) -> list[Path]:
    if not isinstance(image, (str, Path)):
        return [Path(path) for path in image]
    files = sorted(path for path in Path(image).iterdir() if path.is_file()) if Path(image).is_dir() else []
    if not files:
        raise ImageError(f'{image} is not a folder with a file per channel, which LoadMultiChannelImageFromFiles reads')
    return files


def _convert(array: np.ndarray, color_type: str) -> np.ndarray:
    """Convert an array to what OpenCV would read from a lossless file."""
    channels = array.shape[2] if array.ndim == 3 else 1
    unchanged = color_type == 'unchanged'
    kinds = (np.uint8, np.uint16, np.float32) if unchanged else (np.uint8, np.uint16)
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype not in kinds or not (
            unchanged or channels in (1, 3, 4)):
        expected = '(H, W, C), uint8, uint16 or float32' if unchanged else (
            '(H, W, 1), (H, W, 3) or (H, W, 4), BGR, uint8 or uint16')
        raise ImageError(f'an image is (H, W), {expected}; got {array.shape} {array.dtype}')
    if channels == 1:
        array = array.reshape(array.shape[:2])
    if unchanged:
        return np.ascontiguousarray(array)
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    array = np.ascontiguousarray(array if channels == 1 else array[:, :, :3])
    if color_type.startswith('grayscale'):
        return array if channels == 1 else cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    return cv2.cvtColor(array, cv2.COLOR_GRAY2BGR) if channels == 1 else array


def check_file(path: Path, whole: bool = True) -> None:
    """Check that a file is an image.

    Args:
        path: of the file.
        whole: decode it to its end. False: read its header, which takes a fraction of a millisecond.

    Raises:
        ImageError: unless Pillow decodes the file, or only OpenCV supports its format or size.
    """
    if not path.is_file():
        raise ImageError(f'{path} does not exist')
    try:
        with Image.open(path) as opened:
            if whole:
                opened.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        # OpenCV reads a few formats that Pillow does not, and images larger than Pillow's limit.
        if not cv2.haveImageReader(str(path)):
            raise ImageError(f'{path} is empty' if path.stat().st_size == 0 else f'{path} is no image') from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f'{path} is damaged ({_first_line(error)})') from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
