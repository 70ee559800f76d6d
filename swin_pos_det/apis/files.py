"""A detector on files and videos: pictures of what it finds, and a COCO file of it."""
from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence, Union

import cv2
import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmdet.visualization import DetLocalVisualizer
from mmengine.fileio import dump
from torch import nn
from tqdm import tqdm

from ..errors import SettingError
from .images import ImageError, read_image
from .inference import check_settings, predict_batch, prepare_image, transforms

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')
# What OpenCV writes as well as it reads; pictures of other formats are written as PNG.
_WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')

# Images of which one side is so many times the other may be less than a pixel wide once they are resized.
EXTREME_ASPECT = 100
# Videos that end before so much of what they say they hold are damaged; some say a little more than they hold.
SHARE_OF_FRAMES = 0.95


@dataclass
class PredictionReport:
    """What :func:`predict_files` did.

    Attributes:
        json: the file with all detections.
        images: how many images and frames of videos were run.
        detections: how many objects were found in them.
        skipped: what could not be read: its path and the reason, which names it too.
    """
    json: Path
    images: int = 0
    detections: int = 0
    skipped: dict[Path, str] = field(default_factory=dict)


def find_inputs(inputs: Union[str, Path, Sequence[Union[str, Path]]]) -> dict[Path, str]:
    """Finds images and videos.

    Args:
        inputs: one or several of: a file; a folder, whose images and videos are taken but not its subfolders; a
            pattern such as ``'photos/**/*.jpg'``.

    Returns:
        For each file a name that no other has: its place below the folder or pattern, or, where those clash, below
        the folder that all share. Sorted within each input.

    Raises:
        ValueError: if an input does not exist, or there is nothing in it.
    """
    found: dict[Path, str] = {}
    seen: set[str] = set()
    for given in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        root, paths = _matches(str(given))
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


def predict_files(model: nn.Module, inputs: Union[str, Path, Sequence[Union[str, Path]]], out_dir: Union[str, Path],
                  batch_size: int = 1, score_threshold: float = 0.3, pictures: bool = True,
                  progress: bool = True) -> PredictionReport:
    """Runs a detector on images and videos and writes what it finds.

    ``out_dir`` gets ``vis/``, the inputs under their names with the detections drawn (a video as MP4, or as a folder
    of frames where OpenCV cannot write MP4), and ``predictions.json``, a COCO data set: ``images`` (a frame of a video
    has ``video`` and ``frame``, from 0), ``categories`` by the model's names, and ``annotations`` with ``score``,
    ``bbox`` (x, y, w, h) and, with masks, ``segmentation`` (RLE).

    Args:
        model: of :func:`~swin_pos_det.apis.init_detector`.
        inputs: see :func:`find_inputs`.
        out_dir: made if need be.
        batch_size: images at once, at least 1.
        score_threshold: detections below it are neither drawn nor written, in [0, 1].
        pictures: False: no ``vis/``.
        progress: show a bar.

    Returns:
        What was done. Files that cannot be read are skipped and listed in ``skipped``.

    Raises:
        ValueError: if there are no inputs, none can be read, or ``out_dir`` cannot be made; see :func:`find_inputs`,
            :func:`~swin_pos_det.apis.predict`.
    """
    check_settings(batch_size, score_threshold)
    found = find_inputs(inputs)
    _check_places(found, Path(out_dir), pictures)
    writer = _Writer(model, Path(out_dir), pictures)
    load, prepare = transforms(model.cfg)
    bar = tqdm(total=sum(map(_count_frames, found)), desc='inference', unit='image', disable=not progress)
    report = PredictionReport(Path(out_dir) / 'predictions.json')
    frames = _frames(found, load, prepare, report)
    try:
        with bar:
            while batch := list(itertools.islice(frames, batch_size)):
                samples = predict_batch(model, [frame.image for frame in batch], prepare, score_threshold)
                for frame, sample in zip(batch, samples):
                    writer.add(frame, sample)
                bar.update(len(batch))
    finally:  # what was found until an interruption is worth something too
        writer.close()
        report.images, report.detections = len(writer.images), len(writer.annotations)
        if report.images:
            dump(writer.dataset(), str(report.json))
    if not report.images:
        raise SettingError(f'none of the inputs can be read: {"; ".join(report.skipped.values())}')
    return report


def _check_places(found: dict[Path, str], out_dir: Path, pictures: bool) -> None:
    """Nothing may be drawn over an input, and results must have a place before hours are spent on them."""
    inputs = {os.path.realpath(path) for path in found}
    for name in found.values() if pictures else ():
        if os.path.realpath(out_dir / 'vis' / name) in inputs:
            raise SettingError(f'the picture of {name} would be written over an input, {out_dir / "vis" / name}: give '
                               'another folder')
    place = next(folder for folder in (out_dir.absolute(), *out_dir.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SettingError(f'nothing can be written to {out_dir} ({place} is not a folder that may be written to)')


@dataclass
class _Frame:
    """An image, or a frame of a video: (H, W, 3) BGR uint8. ``frame`` counts from 0."""
    name: str
    image: np.ndarray
    frame: Optional[int] = None
    rate: float = 0.


class _Writer:
    """Draws detections and gathers them as a COCO data set."""

    def __init__(self, model: nn.Module, out_dir: Path, pictures: bool) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.classes = model.dataset_meta['classes']
        self._out_dir = out_dir
        self._visualizer = None
        self._video: Optional[cv2.VideoWriter] = None
        self._video_name = ''
        self._video_paths: list[Path] = []
        if pictures:
            self._visualizer = DetLocalVisualizer(name='predictions')
            self._visualizer.dataset_meta = model.dataset_meta

    def add(self, frame: _Frame, sample: DetDataSample) -> None:
        """Takes what was found in an image or frame."""
        if not self.images:
            _make_folder(self._out_dir)
        height, width = frame.image.shape[:2]
        about = dict(id=len(self.images) + 1, file_name=frame.name, width=width, height=height)
        if frame.frame is not None:
            about.update(file_name=f'{frame.name}/{frame.frame:06d}', video=frame.name, frame=frame.frame)
        self.images.append(about)
        self._add_annotations(about['id'], sample)
        if self._visualizer is not None:
            self._write(frame, self._draw(frame, sample))

    def _add_annotations(self, image_id: int, sample: DetDataSample) -> None:
        found = sample.pred_instances
        masks = encode_mask_results(found.masks.numpy()) if 'masks' in found else [None] * len(found)
        for box, score, label, mask in zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks):
            width, height = box[2] - box[0], box[3] - box[1]
            item = dict(id=len(self.annotations) + 1, image_id=image_id, category_id=label + 1,
                        bbox=[box[0], box[1], width, height], area=width * height, iscrowd=0, score=score)
            if mask is not None:
                item['segmentation'] = dict(size=list(mask['size']), counts=mask['counts'].decode())
            self.annotations.append(item)

    def _draw(self, frame: _Frame, sample: DetDataSample) -> np.ndarray:
        image = mmcv.gray2bgr(frame.image) if frame.image.ndim == 2 else frame.image
        self._visualizer.add_datasample(frame.name, mmcv.bgr2rgb(image), sample, draw_gt=False, pred_score_thr=0.)
        return mmcv.rgb2bgr(self._visualizer.get_image())

    def _write(self, frame: _Frame, picture: np.ndarray) -> None:
        path = self._out_dir / 'vis' / frame.name
        if frame.frame is None:
            mmcv.imwrite(picture, str(path if path.suffix.lower() in _WRITABLE else f'{path}.png'))
            return
        if frame.name != self._video_name:
            self.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            size = picture.shape[1], picture.shape[0]
            self._video_name, own = frame.name, path.with_suffix('.mp4')
            self._video_paths.append(path.with_name(f'{path.name}.mp4') if own in self._video_paths else own)
            self._video = cv2.VideoWriter(str(self._video_paths[-1]), cv2.VideoWriter_fourcc(*'mp4v'), frame.rate, size)
        if self._video.isOpened():
            self._video.write(np.ascontiguousarray(picture))
        else:
            mmcv.imwrite(picture, str(self._video_paths[-1].with_suffix('') / f'{frame.frame:06d}.png'))

    def close(self) -> None:
        """Finishes the video that is being written."""
        if self._video is not None:
            self._video.release()

    def dataset(self) -> dict[str, Any]:
        """All of it as a COCO data set."""
        categories = [dict(id=index, name=name) for index, name in enumerate(self.classes, 1)]
        return dict(images=self.images, categories=categories, annotations=self.annotations)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f'nothing can be written to {path} ({error.strerror})') from error


def _matches(given: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the files."""
    path = Path(given).expanduser()
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.is_file() and _kind(item))
        if not files:
            below = any(item.is_dir() for item in path.iterdir())
            raise SettingError(f'the folder {given} has no images or videos' + (
                f'; those of its subfolders: "{path / "**" / "*.jpg"}"' if below else ''))
        return path, files
    if path.is_file():
        return path.parent, [path]
    if not glob.has_magic(given):
        raise SettingError(f'{given} does not exist (current directory: {os.getcwd()})')
    files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    if not files:
        raise SettingError(f'no file matches {given}')
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])
    return Path(*fixed), files


def _kind(path: Path) -> str:
    """'image', 'video' or ''."""
    suffix = path.suffix.lower()
    return 'image' if suffix in IMAGES else 'video' if suffix in VIDEOS else ''


def _count_frames(path: Path) -> int:
    """How many images a file holds, as far as it says so."""
    if _kind(path) != 'video':
        return 1
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(1, count)


def _frames(found: dict[Path, str], load: Any, prepare: Any, report: PredictionReport) -> Iterator[_Frame]:
    """All images and frames one by one; what cannot be read is noted in ``report``."""
    for path, name in found.items():
        try:
            if _kind(path) == 'video':
                yield from _video_frames(path, name)
            else:
                image = read_image(path, load)
                if max(image.shape[:2]) > EXTREME_ASPECT * min(image.shape[:2]):
                    prepare_image(image, prepare)
                yield _Frame(name, image)
        except ImageError as error:
            report.skipped[path] = str(error) if str(path) in str(error) else f'{path}: {error}'


def _video_frames(path: Path, name: str) -> Iterator[_Frame]:
    capture = cv2.VideoCapture(str(path))
    rate, count = capture.get(cv2.CAP_PROP_FPS) or 25., int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    index = -1
    try:
        while True:
            there, image = capture.read()
            if not there:
                break
            index += 1
            yield _Frame(name, image, index, rate)
    finally:
        capture.release()
    if index < 0:
        raise ImageError(f'{path} is no video that OpenCV can read')
    if index + 1 < SHARE_OF_FRAMES * count:
        raise ImageError(f'{path} ended after {index + 1} of {count} frames')
