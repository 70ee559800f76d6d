"""Checks of image files against the annotations that name them, before a worker reads them hours later."""
from __future__ import annotations

import io
import itertools
import os
import os.path as osp
from collections.abc import Sequence
from typing import Any, Optional, Union

import mmcv
import numpy as np
from PIL import Image

from ..errors import UserError

# The number of images opened to compare sizes, and the largest number of which all are checked for empty files.
SAMPLE = 64
_MAX_STATS = 5000
# Folders that are searched for a missing file.
_MAX_FOLDERS = 200
# Bytes at the end of a file that hold the end mark of a JPEG or PNG, with room for data that cameras append.
_TAIL = 4096
_ENDS = ((b'\xff\xd8\xff', b'\xff\xd9'), (b'\x89PNG\r\n\x1a\n', b'IEND'))
_ORIENTATION = 0x0112  # of EXIF; from 5, width and height are swapped


class ImageFileError(UserError, OSError):
    """Image files that annotations name are missing or unusable; the message names one of them."""

    def __init__(self, message: str) -> None:
        # A data loader's worker puts its whole traceback before the message; the user needs the message.
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


def check_files(folder: str, names: Sequence[str], source: str) -> None:
    """Check that image files exist and are not empty, from a listing of each folder.

    Args:
        folder: of the names: ``data_prefix['img']`` of the dataset.
        names: ``file_name`` of the images.
        source: the annotation file, for messages.

    Raises:
        ImageFileError: if some are missing; the message says how many, the path searched, and the likely
            fault: backslashes, a folder that is named twice, upper and lower case, or another folder that has them.
    """
    missing = missing_files(folder, names)
    if missing:
        raise ImageFileError(f'{len(missing)} of the {len(names)} images of {source} are missing, such as '
                             f'{osp.join(folder, missing[0])}{_advice(folder, missing[0])}')
    some = names if len(names) <= _MAX_STATS else sample(names)
    empty = [name for name in some if osp.getsize(osp.join(folder, name)) == 0]
    if empty:
        raise ImageFileError(f'{len(empty)} of the {len(names)} images of {source} are empty files, such as '
                             f'{osp.join(folder, empty[0])}')


def missing_files(folder: str, names: Sequence[str]) -> list[str]:
    """Return the names without a file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for name in names:
        where, base = osp.split(osp.join(folder, name))
        if where not in listings:
            listings[where] = set(os.listdir(where)) if osp.isdir(where) else set()
        if base not in listings[where]:
            missing.append(name)
    return missing


def size_faults(folder: str, images: Sequence[dict[str, Any]], ignore_orientation: bool = False) -> dict[str, str]:
    """Compare the image sizes in an annotation file with those of the image files.

    Args:
        folder: see :func:`check_files`.
        images: of the annotation file.
        ignore_orientation: whether images are loaded as stored, without the rotation in their EXIF data.

    Returns:
        Path of each wrong image -> the fault.
    """
    faults = {}
    for image in images:
        path = osp.join(folder, image['file_name'])
        try:
            height, width, turned = image_size(path, ignore_orientation)
        except (OSError, ValueError) as error:
            faults[path] = f'is not readable as an image ({error})'
            continue
        if (height, width) != (image['height'], image['width']):
            why = ' once turned as its EXIF data say' if turned else ''
            faults[path] = (f'is {width} x {height}{why} (width x height), and the file says '
                            f'{image["width"]} x {image["height"]}')
    return faults


def image_size(path: str, ignore_orientation: bool = False) -> tuple[int, int, bool]:
    """Return height and width of an image as mmcv loads it, and whether EXIF data have turned it on its side.

    Raises:
        OSError: if the file is not an image, or is truncated.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= 5 and not ignore_orientation
    except OSError:
        if osp.isfile(path) and osp.getsize(path) == 0:
            raise OSError('it is empty') from None  # OpenCV's own error is not an OSError
        array = mmcv.imread(path)  # formats that OpenCV knows and Pillow does not
        if array is None:
            raise OSError('unknown format') from None
        return (*array.shape[:2], False)
    with open(path, 'rb') as file:
        start = file.read(8)
        file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
        end = file.read()
    if not looks_complete(start, end) and not _decodes(path):
        raise OSError('it is truncated')
    return (width, height, True) if turned else (height, width, False)


def is_complete(content: bytes) -> bool:
    """Return whether an image file is complete; OpenCV fills the missing part of a truncated JPEG with grey."""
    return looks_complete(content[:8], content[-_TAIL:]) or _decodes(io.BytesIO(content))


def looks_complete(start: bytes, end: bytes) -> bool:
    """Return whether a file has the end mark of a JPEG or PNG. False needs a full check."""
    return all(not start.startswith(magic) or mark in end for magic, mark in _ENDS)


def sample(items: Sequence[Any], number: int = SAMPLE) -> list[Any]:
    """Return at most ``number`` items, spread evenly."""
    places = np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int))
    return [items[place] for place in places] if len(items) else []


def _decodes(file: Union[str, io.BytesIO]) -> bool:
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _advice(folder: str, name: str) -> str:
    """Say where the file may be instead, as the end of a message about the missing path."""
    if '\\' in name and osp.isfile(osp.join(folder, name.replace('\\', '/'))):
        return ': file_name has backslashes; check_coco.py --fix writes slashes'
    if not osp.isdir(folder):
        return f': there is no folder {folder}; set data_prefix=dict(img=...) of the dataset'
    where, base = osp.split(osp.join(folder, name.replace('\\', '/')))
    if not osp.isdir(where) and osp.isfile(osp.join(folder, base)):
        return f': {osp.join(folder, base)} exists; file_name has a folder too many, or data_prefix'
    if osp.isdir(where):
        alike = [entry for entry in os.listdir(where) if entry.lower() == base.lower()
                 or osp.splitext(entry)[0] == osp.splitext(base)[0]]
        if alike:
            return f': did you mean {alike[0]!r}?'
    found = _elsewhere(folder, base)
    return f': {found} exists; set data_prefix=dict(img=...) of the dataset' if found else ''


def _elsewhere(folder: str, base: str) -> Optional[str]:
    """Find a file of that name one or two folders below the folder or its parent."""
    for root in (folder, osp.dirname(osp.normpath(osp.abspath(folder)))):
        for below, folders, files in itertools.islice(os.walk(root), _MAX_FOLDERS):
            if base in files:
                return osp.join(below, base)
            if osp.relpath(below, root).count(os.sep) >= 1:
                folders.clear()
    return None
