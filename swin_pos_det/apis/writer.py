"""Detections as a COCO file, pictures and videos."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional, Union

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import nn

from ..checkpoints import write_json
from ..data.compact_masks import CompactMasks
from ..data.masks import encode_masks
from ..errors import SettingError, UserError
from ..visualization import InstanceDrawer, picture_scale, save_picture, to_rgb
from ..visualization.visualizer import instance_arrays, own_palette
from .inputs import Frame

# Maximum of the longer side of pictures in pixels: larger images are drawn smaller. The boxes in the COCO file are
# exact.
MAX_PICTURE_SIDE = 4096


class PredictionWriter:
    """Gather detections as a COCO data set, and write pictures of them.

    Args:
        model: of :func:`~swin_pos_det.apis.init_detector`.
        out_dir: gets ``vis/`` and ``predictions.json``; made with the first image.
        pictures: False: no ``vis/``.
        font: see :func:`~swin_pos_det.visualization.find_font`.
    """

    def __init__(self, model: nn.Module, out_dir: Path, pictures: bool, font: Union[str, Path, None] = None) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.path = out_dir / 'predictions.json'
        self._classes = model.dataset_meta['classes']
        self._out_dir = out_dir
        self._drawer = InstanceDrawer(self._classes, _palette(model), font) if pictures else None
        self._video: Optional[VideoFile] = None
        self._video_paths: set[Path] = set()

    def add(self, frame: Frame, sample: DetDataSample) -> None:
        """Add the detections of an image or frame."""
        if not self.images:
            _make_folder(self._out_dir)
        height, width = frame.image.shape[:2]
        about = dict(id=len(self.images) + 1, file_name=frame.name, width=width, height=height)
        if frame.frame is not None:
            about.update(file_name=f'{frame.name}/{frame.frame:06d}', video=frame.name, frame=frame.frame)
        self.images.append(about)
        self._add_annotations(about['id'], sample)
        if self._drawer is not None:
            scale = picture_scale(frame.image.shape, at_most=MAX_PICTURE_SIDE)
            self._write(frame, self._drawer.draw(to_rgb(frame.image), **instance_arrays(sample.pred_instances),
                                                 scale=scale))

    def close(self, whole: bool = True) -> None:
        """Write the COCO file, and finish the video, or, unless it is ``whole``, remove it."""
        if self.images:
            categories = [dict(id=index, name=name) for index, name in enumerate(self._classes, 1)]
            write_json(dict(images=self.images, categories=categories, annotations=self.annotations), self.path)
        self._close_video(whole)

    def _add_annotations(self, image_id: int, sample: DetDataSample) -> None:
        found = sample.pred_instances
        masks = _encode(found.masks) if 'masks' in found else [None] * len(found)
        for box, score, label, mask in zip(found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), masks):
            width, height = box[2] - box[0], box[3] - box[1]
            item = dict(id=len(self.annotations) + 1, image_id=image_id, category_id=label + 1,
                        bbox=[box[0], box[1], width, height], area=width * height, iscrowd=0, score=score)
            if mask is not None:
                item['segmentation'] = dict(size=list(mask['size']), counts=mask['counts'].decode())
            self.annotations.append(item)

    def _write(self, frame: Frame, picture: np.ndarray) -> None:
        path = self._out_dir / 'vis' / frame.name
        if frame.frame is None:
            save_picture(picture, path)
            return
        if self._video is None or self._video.name != frame.name:
            self._close_video()
            own = path.with_suffix('.mp4')
            own = path.with_name(f'{path.name}.mp4') if own in self._video_paths else own
            self._video_paths.add(own)
            self._video = VideoFile(frame.name, own, frame.rate, picture.shape)
        self._video.write(picture)

    def _close_video(self, whole: bool = True) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close(whole)


class VideoFile:
    """An MP4 file, renamed to its name when complete, or, without an encoder, a folder of PNG files.

    Args:
        name: of the input.
        path: of the MP4 file; the folder is made.
        rate: frames per second.
        shape: (H, W, 3) of the pictures.
    """

    def __init__(self, name: str, path: Path, rate: float, shape: tuple[int, ...]) -> None:
        self.name = name
        self._path = path
        self._draft = path.with_name(f'.{path.stem}.part.mp4')  # encoders are chosen by the suffix
        self._frames = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = cv2.VideoWriter(str(self._draft), cv2.VideoWriter_fourcc(*'mp4v'), rate, shape[1::-1])
        self._encodes = self._writer.isOpened()

    def write(self, picture: np.ndarray) -> None:
        """Append an RGB picture (H, W, 3), uint8."""
        if self._encodes:
            self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        else:
            save_picture(picture, self._path.with_suffix('') / f'{self._frames:06d}.png')
        self._frames += 1

    def close(self, whole: bool) -> None:
        """Give the file its name, or remove it unless it is whole.

        Raises:
            UserError: if fewer frames are in the file than were written: OpenCV reports neither a full disk nor
                other errors.
        """
        self._writer.release()
        if not self._encodes:
            self._draft.unlink(missing_ok=True)
            return
        written = _count_readable(self._draft)
        if whole and written >= self._frames:
            os.replace(self._draft, self._path)
            return
        self._draft.unlink(missing_ok=True)
        if whole:
            raise UserError(f'failed to write {self._path}: {written} of {self._frames} frames arrived on the '
                            'disk, which may be full')


def _count_readable(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def _encode(masks: Union[torch.Tensor, CompactMasks]) -> list[dict[str, Any]]:
    return masks.encode() if isinstance(masks, CompactMasks) else encode_masks(masks.numpy())


def _palette(model: nn.Module) -> Optional[list]:
    palette = own_palette(model.dataset_meta)
    return None if isinstance(palette, str) else palette


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f'nothing can be written to {path} ({error.strerror})') from error
