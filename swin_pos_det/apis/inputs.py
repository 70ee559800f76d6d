"""Images and videos on disk: finding them, and reading them frame by frame."""
from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

import cv2
import numpy as np

from ..errors import SettingError
from .images import ImageError, check_file
from .pipeline import InputPipeline

Inputs = Union[str, Path, Sequence[Union[str, Path]]]

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')

# Images with this ratio of sides or more may be less than a pixel wide after resizing.
EXTREME_ASPECT = 100
# Videos that end before this share of their declared frames are damaged; some declare a few too many.
SHARE_OF_FRAMES = 0.95


@dataclass
class Frame:
    """An image, or a frame of a video.

    Attributes:
        name: of the file.
        image: (H, W) or (H, W, C), as the config's loader gives it.
        frame: number in the video, from 0; None for images.
        rate: frames per second of the video.
    """
    name: str
    image: np.ndarray
    frame: Optional[int] = None
    rate: float = 0.


def find_inputs(inputs: Inputs, folders: bool = False) -> dict[Path, str]:
    """Find images and videos.

    Args:
        inputs: one or several of: a file; a folder, with its images and videos but not its subfolders; a
            pattern such as ``'photos/**/*.jpg'``.
        folders: a folder is one image, with a file per channel.

    Returns:
        A unique name for each file: its path below the folder or pattern or, if those clash, below
        the common folder. Sorted within each input.

    Raises:
        SettingError: if an input does not exist, or there is nothing in it.
    """
    found: dict[Path, str] = {}
    seen: set[str] = set()
    for given in _as_list(inputs):
        root, paths = _matches(given, folders)
        for path in paths:
            if os.path.abspath(path) not in seen:
                found[path] = os.path.relpath(path, root)
            seen.add(os.path.abspath(path))
    if not found:
        raise SettingError('no inputs were given')
    if len(set(found.values())) < len(found):
        root = Path(os.path.commonpath([path.absolute().parent for path in found]))
        found = {path: os.path.relpath(path.absolute(), root) for path in found}
    return found


def describe_ignored(inputs: Inputs) -> list[str]:
    """Describe in a line for each input folder the files that :func:`find_inputs` leaves out."""
    lines = []
    for folder in (Path(given).expanduser() for given in _as_list(inputs)):
        items = list(folder.iterdir()) if folder.is_dir() else []
        suffixes = Counter(item.suffix.lower() or 'without suffix' for item in items if item.is_file()
                           and not kind_of(item))
        below = sum(item.is_dir() for item in items)
        parts = []
        if suffixes:
            counts = ', '.join(f'{suffix}: {count}' for suffix, count in sorted(suffixes.items()))
            parts.append(f'files whose suffix is not that of an image or video ({counts})')
        if below:
            parts.append(f'subfolders ({below}; to search them: "{folder / "**" / "*.jpg"}")')
        if parts:
            lines.append(f'{folder}: left out {" and ".join(parts)}')
    return lines


def check_inputs(found: dict[Path, str], out_dir: Union[str, Path], pictures: bool = True) -> None:
    """Check inputs and the folder of results before any slow work.

    Args:
        found: of :func:`find_inputs`.
        out_dir: where results go.
        pictures: whether pictures will be written.

    Raises:
        SettingError: if none of the inputs is an image or video by its header, a picture would be written over an
            input, or nothing can be written to ``out_dir``.
    """
    reasons = {}
    for path in found:
        reasons[path] = _reason_against(path)
        if reasons[path] is None:
            break
    else:
        raise SettingError(f'none of the inputs can be read: {"; ".join(reasons.values())}')
    out_dir = Path(out_dir)
    inputs = {os.path.realpath(path) for path in found}
    for name in found.values() if pictures else ():
        if os.path.realpath(out_dir / 'vis' / name) in inputs:
            raise SettingError(f'the picture of {name} would be written over an input, {out_dir / "vis" / name}: give '
                               'another folder')
    place = next(folder for folder in (out_dir.absolute(), *out_dir.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SettingError(f'nothing can be written to {out_dir} ({place} is not a folder that may be written to)')


def kind_of(path: Path) -> str:
    """Return 'image', 'video' or '', by the suffix."""
    suffix = path.suffix.lower()
    return 'image' if suffix in IMAGES else 'video' if suffix in VIDEOS else ''


def count_frames(path: Path) -> int:
    """Return the declared number of images in a file, at least 1."""
    if kind_of(path) != 'video' or path.is_dir():
        return 1
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(1, count)


def read_frames(found: dict[Path, str], pipeline: InputPipeline, skipped: dict[Path, str]) -> Iterator[Frame]:
    """Yield all images and frames one by one; unreadable ones go into ``skipped`` with a reason."""
    for path, name in found.items():
        try:
            if kind_of(path) == 'video' and path.is_file():
                yield from _video_frames(path, name, pipeline)
            else:
                image = pipeline.read(path)
                if max(image.shape[:2]) > EXTREME_ASPECT * min(image.shape[:2]):
                    pipeline.prepare(image)
                yield Frame(name, image)
        except ImageError as error:
            skipped[path] = str(error) if str(path) in str(error) else f'{path}: {error}'


def _video_frames(path: Path, name: str, pipeline: InputPipeline) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    rate, count = capture.get(cv2.CAP_PROP_FPS) or 25., int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    index = -1
    try:
        while True:
            there, image = capture.read()
            if not there:
                break
            index += 1
            yield Frame(name, pipeline.read(image), index, rate)
    finally:
        capture.release()
    if index < 0:
        raise ImageError(f'{path} is no video that OpenCV can read')
    if index + 1 < SHARE_OF_FRAMES * count:
        raise ImageError(f'{path} ended after {index + 1} of {count} frames')


def _reason_against(path: Path) -> Optional[str]:
    """Return why a file is neither an image nor a video, by its first bytes; None if it seems to be one."""
    if path.is_dir():
        return None
    if kind_of(path) == 'video':
        capture = cv2.VideoCapture(str(path))
        opened = capture.isOpened()
        capture.release()
        return None if opened else f'{path} is no video that OpenCV can read'
    try:
        check_file(path, whole=False)
    except ImageError as error:
        return str(error)
    return None


def _as_list(inputs: Inputs) -> list[str]:
    return [str(given) for given in ([inputs] if isinstance(inputs, (str, Path)) else inputs)]


def _matches(given: str, folders: bool) -> tuple[Path, list[Path]]:
    """Return the base folder of the names, and the files."""
    path = Path(given).expanduser()
    if path.is_dir() and not folders:
        files = sorted(item for item in path.iterdir() if item.is_file() and kind_of(item))
        if not files:
            below = any(item.is_dir() for item in path.iterdir())
            raise SettingError(f'the folder {given} has no images or videos' + (
                f'; those of its subfolders: "{path / "**" / "*.jpg"}"' if below else ''))
        return path, files
    if path.exists():
        return path.absolute().parent if path.is_dir() else path.parent, [path]
    if not glob.has_magic(given):
        raise SettingError(f'{given} does not exist (current directory: {os.getcwd()})')
    files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isdir(name) == folders)
    if not files:
        raise SettingError(f'no {"folder" if folders else "file"} matches {given}')
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
    return Path(*fixed), files
