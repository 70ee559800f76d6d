"""Compare an exported detector with the one in torch, detection by detection."""
from __future__ import annotations

import contextlib
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .onnx_detector import Detections, OnnxDetector, paste_probability

BOX_TOLERANCE = 0.01  # pixels
SCORE_TOLERANCE = 1e-4
MASK_TOLERANCE = 1e-3  # of a probability
# Two boxes whose overlap is the limit of NMS to the last digit are suppressed in one of the two only.
UNPAIRED_SHARE = 0.01


class Case(NamedTuple):
    """Images to compare with: their size, what they show and the threshold of scores (None: the detector's)."""
    height: int
    width: int
    picture: str = 'shapes'
    threshold: Optional[float] = None


# None is the size that is traced. With a threshold of 0, hundreds of candidates compete; above 1 there is none.
CASES = (Case(224, 224), Case(256, 320, threshold=0.), Case(333, 500), Case(97, 640, threshold=0.), Case(415, 33),
         Case(480, 352, 'noise', 0.), Case(160, 161, 'dark'), Case(64, 96, threshold=1.))


class Comparison(NamedTuple):
    """How two detectors differ on one image.

    Attributes:
        case: what was compared.
        found: how many detections torch has.
        unpaired: how many detections, of either, have no partner of the same label within the box tolerance.
        box, score, mask: the largest differences of pairs, in pixels and probabilities; NaN if there is one.
    """
    case: Case
    found: int
    unpaired: int
    box: float
    score: float
    mask: float

    @property
    def equal(self) -> bool:
        """Whether the differences are those of float rounding."""
        return (self.unpaired <= UNPAIRED_SHARE * self.found and self.box <= BOX_TOLERANCE
                and self.score <= SCORE_TOLERANCE and self.mask <= MASK_TOLERANCE)


def compare_detector(detector: nn.Module, exported: OnnxDetector, cases: Sequence[Case] = CASES,
                     within: float = BOX_TOLERANCE) -> List[Comparison]:
    """Compare on generated images of each case.

    Args:
        detector: in torch, on the CPU.
        exported: the same in onnxruntime.
        cases: at least one.
        within: pixels that the coordinates of partners may differ by.

    Returns:
        For each case the comparison of the image that differs most.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for case in cases:
        images = torch.cat([_picture(case, generator) for _ in range(exported.batch_size)])
        with _threshold(detector, case.threshold):
            want = predict_prepared(detector, images)
        got = exported.run(list(images.numpy()), case.threshold)
        each = [compare_images(case, a, b, within) for a, b in zip(want, got)]
        found.append(max(each, key=lambda one: (not one.equal, one.unpaired, one.box)))
    return found


def compare_wrapped(exported: OnnxDetector, wrapped: OnnxDetector) -> List[Comparison]:
    """Compare an exported detector with the same that resizes its image, pastes its masks, or both.

    Images have sizes that need no resizing: OpenCV's differs by one level of 255.

    Returns:
        A comparison for each size; its ``mask`` is the share of pixels that differ.
    """
    short, long = min(exported.metadata['test_scale']), max(exported.metadata['test_scale'])
    sizes = ((short, long), (long, short), (short, short)) if exported.metadata['keep_ratio'] else (
        exported.resized((1, 1)), )
    generator = torch.Generator().manual_seed(0)
    return [_compare_wrapped(exported, wrapped, Case(*size, 'wrapped'), generator) for size in sizes]


def _compare_wrapped(exported: OnnxDetector, wrapped: OnnxDetector, case: Case,
                     generator: torch.Generator) -> Comparison:
    size = case.height, case.width
    image = np.ascontiguousarray(_picture(case, generator)[0].permute(1, 2, 0).numpy().astype(np.uint8))
    found = []
    for each in (exported, wrapped):
        prepared = image if each.metadata['raw'] else np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        found.append(each.to_instances(each.run([prepared])[0], size, (1., 1.)))
    want, got = found
    pairs = pair_detections(want, got)
    mine, theirs = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    mask = 0.
    if want.masks is not None and len(pairs):
        mask = max(float((want.masks[a] != got.masks[b]).mean()) for a, b in pairs)
    return Comparison(case, len(want), len(want) + len(got) - 2 * len(pairs),
                      _largest(want.bboxes[mine] - got.bboxes[theirs]),
                      _largest(want.scores[mine] - got.scores[theirs]), mask)


def predict_prepared(detector: nn.Module, images: Tensor) -> List[InstanceData]:
    """Run a detector on images that are resized already, (B, 3, H, W) float32, BGR from 0 to 255.

    Returns:
        For each image mmdet's results in pixels of the input. Masks are probabilities from 0 to 255 in whole numbers.
    """
    size = tuple(images.shape[-2:])
    samples = [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1., 1.), img_id=index))
               for index in range(len(images))]
    roi = getattr(detector, 'roi_head', None)
    with torch.no_grad(), _setting(roi and roi.test_cfg, 'mask_thr_binary', -1):
        data = detector.data_preprocessor(dict(inputs=list(images), data_samples=samples), False)
        return [sample.pred_instances for sample in detector(**data, mode='predict')]


def compare_images(case: Case, want: InstanceData, got: Dict[str, np.ndarray],
                   within: float = BOX_TOLERANCE) -> Comparison:
    """Compare torch's detections in an image with an exported detector's outputs."""
    boxes, scores, labels = (want[name].numpy() for name in ('bboxes', 'scores', 'labels'))
    pairs = pair_detections(Detections(boxes, scores, labels), Detections(got['boxes'], got['scores'], got['labels']),
                            within)
    mine, theirs = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
    mask = 0.
    if 'masks' in want and len(pairs):
        # In torch's box: a hundredth of a pixel in a box of a few is more than that in a mask, and counts as the box's.
        mask = max(_mask_difference(want.masks[a].numpy(), got['masks'][b], boxes[a]) for a, b in pairs)
    unpaired = len(scores) + len(got['scores']) - 2 * len(pairs)
    return Comparison(case, len(scores), unpaired, _largest(boxes[mine] - got['boxes'][theirs]),
                      _largest(scores[mine] - got['scores'][theirs]), mask)


def pair_detections(want: Detections, got: Detections, within: float = BOX_TOLERANCE) -> List[tuple]:
    """Pair detections of one label whose boxes are nearest, and their coordinates within some pixels of each other.

    Returns:
        Places in both, for each pair.
    """
    pairs, free = [], np.ones(len(got), bool)
    for index, (box, label) in enumerate(zip(want.bboxes, want.labels)):
        # A box that is no number pairs with anything, so that it shows as a difference.
        distance = np.abs(got.bboxes - box).max(1, initial=0)
        distance = np.where(free & (got.labels == label), distance + np.abs(got.scores - want.scores[index]), np.inf)
        if not len(distance):
            break
        nearest = int(np.argmin(distance))
        if not distance[nearest] > within * 1.01:
            pairs.append((index, nearest))
            free[nearest] = False
    return pairs


def _mask_difference(want: np.ndarray, probabilities: np.ndarray, box: np.ndarray) -> float:
    """By how much a pasted probability is outside what torch's, cut to a whole number of 255, can have been."""
    if not np.isfinite(box).all():
        return float('nan')
    got = np.zeros(want.shape, np.float32)
    where, values = paste_probability(probabilities, box, want.shape)
    got[where] = values
    return float(np.maximum(want / 255 - got, got - (want.astype(np.float32) + 1) / 255).max(initial=0))


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max(initial=0))


def _picture(case: Case, generator: torch.Generator) -> Tensor:
    """Make an image (1, 3, H, W) from 0 to 255: noise, or smooth shapes, which may be dark."""
    size = case.height, case.width
    noise = torch.rand(1, 3, *(size if case.picture == 'noise' else [side // 24 + 2 for side in size]),
                       generator=generator)
    # One colour everywhere would give boxes of equal scores, whose order is nobody's.
    return F.interpolate(noise, size, mode='bicubic').clamp(0, 1) * (5 if case.picture == 'dark' else 255)


@contextlib.contextmanager
def _threshold(detector: nn.Module, value: Optional[float]) -> Iterator[None]:
    head = detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head
    with _setting(None if value is None else head.test_cfg, 'score_thr', value):
        yield


@contextlib.contextmanager
def _setting(cfg: Optional[dict], name: str, value: object) -> Iterator[None]:
    """Change a setting, if there is one, for a while."""
    if not cfg or name not in cfg:
        yield
        return
    before, cfg[name] = cfg[name], value
    try:
        yield
    finally:
        cfg[name] = before
