"""Pictures and figures as files, and several pictures in one."""
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Union

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Suffixes that OpenCV writes as well as reads; pictures with other names are written as PNG.
_WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def save_picture(picture: np.ndarray, path: Union[str, Path]) -> Path:
    """Write an RGB picture (H, W, 3), uint8; the folder is made.

    Returns:
        The file: ``path``, or ``path`` with ``.png`` appended if OpenCV does not write the format of its suffix.

    Raises:
        OSError: if writing fails.
    """
    path = Path(writable_name(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    path.write_bytes(encoded.tobytes())
    return path


def save_figure(figure: Figure, path: Union[str, Path], dpi: int = 120) -> Path:
    """Write a Matplotlib figure; the folder is made. Return the file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def writable_name(path: Union[str, Path]) -> str:
    """Return ``path``, with ``.png`` appended if OpenCV does not write the format of its suffix."""
    return str(path) if Path(path).suffix.lower() in _WRITABLE else f'{path}.png'


def distinct_names(paths: Iterable[Union[str, Path]]) -> dict[str, str]:
    """Name the pictures of some files so that none overwrites another.

    Args:
        paths: of the files.

    Returns:
        For each path, as a string, its file name if no other file has it; else, for all, the path below their common
        folder.
    """
    absolute = {str(path): os.path.abspath(path) for path in paths}
    files = set(absolute.values())
    names = {file: os.path.basename(file) for file in files}
    if len({name.casefold() for name in names.values()}) < len(files):
        root = os.path.commonpath([os.path.dirname(file) for file in files])
        names = {file: os.path.relpath(file, root) for file in files}
    return {path: names[file] for path, file in absolute.items()}


def contact_sheet(pictures: Iterable[np.ndarray], width: int = 1920, row_height: int = 240,
                  gap: int = 8) -> np.ndarray:
    """Arrange pictures in rows of one height.

    Args:
        pictures: RGB (H, W, 3), uint8, of any sizes; at least one.
        width: of a full row in pixels, at most, unless a single picture is wider.
        row_height: height that every picture is resized to, in pixels.
        gap: white pixels between pictures.

    Returns:
        The sheet, RGB (H, W, 3), uint8.
    """
    tiles, places, x, y, extent = [], [], 0, 0, 0
    for picture in pictures:
        shrinks = picture.shape[0] > row_height
        size = max(1, round(picture.shape[1] * row_height / picture.shape[0])), row_height
        tile = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        if x and x + size[0] > width:
            x, y = 0, y + row_height + gap
        tiles.append(tile)
        places.append((x, y))
        x += size[0] + gap
        extent = max(extent, x - gap)
    sheet = np.full((y + row_height, extent, 3), 255, np.uint8)
    for tile, (x, y) in zip(tiles, places):
        sheet[y:y + row_height, x:x + tile.shape[1]] = tile
    return sheet
