"""Run a detector that ``tools/deployment/export_detector.py`` wrote: with onnxruntime, numpy and OpenCV alone.

Nothing here imports torch or MMDetection, so that a server needs neither.
"""
from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from ..errors import MissingFileError, MissingPackageError, SettingError, SettingTypeError

PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider', 'tensorrt': 'TensorrtExecutionProvider'}

Size = Tuple[int, int]


@dataclass
class Detections:
    """What was found in an image, by falling score; the names are those of mmdet's ``pred_instances``.

    Attributes:
        bboxes: (N, 4) float32 as x1, y1, x2, y2 in pixels of the image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, places in the detector's ``classes``.
        masks: (N, H, W) booleans of the image's size, or None if the detector makes none.
    """
    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Optional[np.ndarray] = None

    def __len__(self) -> int:
        return len(self.scores)


@dataclass
class DetectionSample:
    """The detections of an image; the names are those of mmdet's ``DetDataSample``.

    Attributes:
        pred_instances: what was found.
        ori_shape: (h, w) of the image.
        img_shape: (h, w) that the detector saw.
        scale_factor: (w, h), ``img_shape`` over ``ori_shape``.
    """
    pred_instances: Detections
    ori_shape: Size
    img_shape: Size
    scale_factor: Tuple[float, float]


class OnnxDetector:
    """A detector in onnxruntime.

    Args:
        model: path of the file, or its content.
        providers: names of :data:`PROVIDERS`, or onnxruntime's own, in the order of preference.
        threads: of onnxruntime within an operator; 0: its own choice.

    Attributes:
        classes: names of the labels.
        palette: a colour (r, g, b) for each, or None.
        metadata: everything that the file says of itself.

    Raises:
        MissingFileError: if there is no such file.
        SettingError: if onnxruntime cannot run it, does not have a provider, or it is another kind of model.
        MissingPackageError: if onnxruntime is not installed.
    """

    def __init__(self, model: Union[str, os.PathLike, bytes], providers: Sequence[str] = ('cpu', ),
                 threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingPackageError('an exported detector needs onnxruntime: pip install onnxruntime') from error
        name = 'the model' if isinstance(model, bytes) else os.fspath(model)
        if not isinstance(model, bytes) and not os.path.isfile(model):
            raise MissingFileError(f'model {name} does not exist')
        wanted = _provider_names(providers, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # it warns of an input that has a default, which is meant
        try:
            content = model if isinstance(model, bytes) else os.fspath(model)
            self.session = onnxruntime.InferenceSession(content, options, providers=wanted)
        except Exception as error:
            if not type(error).__module__.startswith('onnxruntime.'):  # its errors have no base of their own
                raise
            raise SettingError(f'onnxruntime {onnxruntime.__version__} cannot run {name}: {error}') from error
        self.metadata = _read_metadata(self.session.get_modelmeta().custom_metadata_map)
        if 'classes' not in self.metadata:
            raise SettingError(f'{name} is not a detector that tools/deployment/export_detector.py wrote: its metadata '
                               'name no classes')
        self.classes: List[str] = self.metadata['classes']
        self.palette: Optional[List[Sequence[int]]] = self.metadata['palette']
        self.batch_size: int = self.metadata['batch_size']
        self._outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, image: np.ndarray, score_threshold: Optional[float] = None) -> DetectionSample:
        """Detect objects in an image: see :meth:`predict`."""
        return self.predict([image], score_threshold)[0]

    def predict(self, images: Sequence[np.ndarray], score_threshold: Optional[float] = None) -> List[DetectionSample]:
        """Detect objects in images. Those of a batch are neighbours that are resized to the same size.

        Args:
            images: (H, W, 3) uint8 in BGR order, as ``cv2.imread`` gives them.
            score_threshold: that scores exceed, in [0, 1]. Default: the detector's.

        Raises:
            SettingTypeError: if one is no such image.
            SettingError: if the threshold is out of range.
        """
        for image in images:
            check_image(image)
        found: List[DetectionSample] = []
        sizes = [image.shape[:2] if self.metadata['raw'] else self.resized(image.shape[:2]) for image in images]
        for start, stop in _runs(sizes, self.batch_size):
            batch = [self._prepare(image, sizes[start]) for image in images[start:stop]]
            outputs = self.run(batch, score_threshold)
            found += [self._sample(output, image.shape[:2], sizes[start])
                      for output, image in zip(outputs, images[start:stop])]
        return found

    def run(self, images: Sequence[np.ndarray], score_threshold: Optional[float] = None) -> List[Dict[str, np.ndarray]]:
        """Run the model on images that are prepared: of one size, and no more than ``batch_size``.

        Args:
            images: (3, H, W) float32, BGR from 0 to 255; with ``metadata['raw']`` (H, W, 3) uint8.
            score_threshold: as of :meth:`predict`.

        Returns:
            For each image the model's outputs by name, in pixels of the model's input.
        """
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise SettingError(f'score_threshold must be in [0, 1], got {score_threshold:g}')
        filled = [*images, *[images[-1]] * (self.batch_size - len(images))]
        feed = {'image': filled[0] if self.metadata['raw'] else np.stack(filled)}
        if score_threshold is not None:
            feed['score_threshold'] = np.array([score_threshold], np.float32)
        outputs = dict(zip(self._outputs, self.session.run(None, feed)))
        if self.batch_size == 1:
            return [outputs]
        owner = outputs.pop('image_index')
        return [{name: value[owner == index] for name, value in outputs.items()} for index in range(len(images))]

    def resized(self, shape: Size) -> Size:
        """Return the (h, w) that the test pipeline resizes an image of (h, w) to."""
        height, width = shape
        scale = self.metadata['test_scale']
        if not self.metadata['keep_ratio']:
            return scale[1], scale[0]
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def _prepare(self, image: np.ndarray, size: Size) -> np.ndarray:
        if self.metadata['raw']:
            return np.ascontiguousarray(image)
        if 0 in size:
            raise SettingError(f'an image of {image.shape[1]}x{image.shape[0]} pixels would be less than a pixel wide')
        if size != image.shape[:2]:
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)

    def _sample(self, output: Dict[str, np.ndarray], shape: Size, size: Size) -> DetectionSample:
        factor = size[1] / shape[1], size[0] / shape[0]
        return DetectionSample(self.to_instances(output, shape, factor), shape, size, factor)

    def to_instances(self, output: Dict[str, np.ndarray], shape: Size, factor: Tuple[float, float]) -> Detections:
        """Bring the outputs for an image, from :meth:`run`, to the image's own size.

        Args:
            output: by name.
            shape: (h, w) of the image.
            factor: (w, h), the size of the model's input over that of the image.
        """
        boxes = output['boxes'] / np.array([*factor, *factor], np.float32)
        masks = output.get('masks')
        if masks is not None and not self.metadata['masks_pasted']:
            masks = paste_masks(masks, boxes, shape, self.metadata['mask_threshold'])
        elif masks is not None and masks.shape[1:] != shape:
            masks = np.stack([cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
                              for mask in masks]).astype(bool) if len(masks) else np.zeros((0, *shape), bool)
        return Detections(boxes, output['scores'], output['labels'], masks)


def paste_masks(probabilities: np.ndarray, boxes: np.ndarray, shape: Size, threshold: float) -> np.ndarray:
    """Paste the masks of boxes into an image, by bilinear interpolation.

    Args:
        probabilities: (N, h, w), each within its box.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels.
        shape: (H, W) of the image.
        threshold: of what belongs to the object.

    Returns:
        (N, H, W) booleans.
    """
    pasted = np.zeros((len(boxes), *shape), bool)
    for mask, box, probability in zip(pasted, boxes, probabilities):
        where, values = paste_probability(probability, box, shape)
        mask[where] = values >= threshold
    return pasted


def paste_probability(probability: np.ndarray, box: np.ndarray, shape: Size) -> Tuple[Tuple[slice, slice], np.ndarray]:
    """Resample the mask of a box to the pixels of an image (H, W).

    Returns:
        The part of the image that the box covers, as slices of rows and columns, and its probabilities.
    """
    x_range, columns = _weights(box[0], box[2], shape[1], probability.shape[1])
    y_range, rows = _weights(box[1], box[3], shape[0], probability.shape[0])
    return (y_range, x_range), rows @ probability @ columns.T


def _weights(low: float, high: float, side: int, samples: int) -> Tuple[slice, np.ndarray]:
    """Return the pixels of a box along an axis, and one more at each end, and their weights of the mask's samples."""
    start, stop = max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, side)
    pixels = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    extent = np.float32(high) - np.float32(low)
    # A box without extent shows the middle of its mask, as in mmdet.
    place = (pixels - low) / extent * samples - np.float32(0.5) if extent > 0 else np.full_like(
        pixels, (samples - 1) / 2)
    weights = 1 - np.abs(place[:, None] - np.arange(samples, dtype=np.float32))
    return slice(start, stop), np.maximum(weights, 0)


def check_image(image: Any) -> None:
    """Check that something is an image as a detector takes it.

    Raises:
        SettingTypeError: unless it is (H, W, 3) uint8.
    """
    if not isinstance(image, np.ndarray):
        raise SettingTypeError(f'an image is an array (H, W, 3), uint8, BGR; got {type(image).__name__} (is there such '
                               'a file? cv2.imread returns None otherwise)')
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise SettingTypeError(f'an image is an array (H, W, 3), uint8, BGR; got {image.shape} {image.dtype}')


def _runs(sizes: Sequence[Size], longest: int) -> Iterator[Tuple[int, int]]:
    """Yield the start and end of neighbours of one size, at most ``longest`` at once."""
    start = 0
    for _, group in itertools.groupby(sizes):
        end = start + len(list(group))
        yield from ((at, min(at + longest, end)) for at in range(start, end, longest))
        start = end


def _provider_names(providers: Sequence[str], available: Sequence[str]) -> List[str]:
    if isinstance(providers, str):
        raise SettingTypeError(f'providers must be a list of names, got {providers!r}')
    names = [PROVIDERS.get(name.lower(), name) for name in providers]
    for name in names:
        if name not in available:
            raise SettingError(f'onnxruntime has no provider {name!r} here; it has {", ".join(available)}')
    return names


def _read_metadata(entries: Dict[str, str]) -> Dict[str, Any]:
    """Parse values as JSON; what others wrote stays text."""
    found: Dict[str, Any] = {}
    for name, text in entries.items():
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
