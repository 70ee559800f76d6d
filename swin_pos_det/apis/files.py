"""Inference on image files and videos: pictures and a COCO file of the detections."""
from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional, Union

from torch import nn

from ..errors import SettingError
from ..progress import ProgressBar
from .inference import check_finite, check_settings, predict_batch
from .inputs import Inputs, check_inputs, count_frames, find_inputs, read_frames
from .pipeline import InputPipeline, reads_folders
from .slicing import Slicing, predict_sliced
from .writer import PredictionWriter


@dataclass
class PredictionReport:
    """The outcome of :func:`predict_files`.

    Attributes:
        json: the file with all detections.
        images: number of images and frames of videos that were run.
        detections: number of objects found in them.
        skipped: path of each unreadable file -> the reason, which names it too.
    """
    json: Path
    images: int = 0
    detections: int = 0
    skipped: dict[Path, str] = field(default_factory=dict)


def predict_files(model: nn.Module, inputs: Union[Inputs, Mapping[Path, str]], out_dir: Union[str, Path],
                  batch_size: int = 1, score_threshold: float = 0.3, pictures: bool = True, progress: bool = True,
                  font: Union[str, Path, None] = None, slicing: Optional[Slicing] = None) -> PredictionReport:
    """Run a detector on images and videos and write its detections.

    ``out_dir`` gets ``vis/``, the inputs under their names with the detections drawn, at most 4096 pixels wide and
    high (a video as MP4, or as a folder of frames if OpenCV cannot write MP4), and ``predictions.json``, a COCO
    data set: ``images`` (a frame of a video has ``video`` and ``frame``, from 0), ``categories`` by the model's names,
    and ``annotations`` with ``score``, ``bbox`` (x, y, w, h) and, with masks, ``segmentation`` (RLE). After an
    interruption it holds the detections until then; an incomplete video is removed.

    Args:
        model: of :func:`~swin_pos_det.apis.init_detector`.
        inputs: see :func:`find_inputs`, or its result. If the config loads a file per channel
            (``LoadMultiChannelImageFromFiles``), each folder is an image.
        out_dir: created if necessary.
        batch_size: images at once, at least 1; with ``slicing``, tiles at once.
        score_threshold: detections below it are neither drawn nor written, in [0, 1].
        pictures: False: no ``vis/``.
        progress: show a bar.
        font: path of a font for class names; see :func:`~swin_pos_det.visualization.find_font`.
        slicing: cut images larger than its tiles; see :func:`~swin_pos_det.apis.slicing.predict_sliced`.

    Returns:
        The outcome. Unreadable files are skipped and listed in ``skipped``.

    Raises:
        SettingError: if there are no inputs, none is readable, or creating ``out_dir`` fails; see
            :func:`find_inputs`, :func:`~swin_pos_det.apis.predict`.
        DetectionsError: if nothing is found, as numbers in the detector are NaN or infinite.
    """
    check_settings(batch_size, score_threshold)
    pipeline = InputPipeline(model)
    found = dict(inputs) if isinstance(inputs, Mapping) else find_inputs(inputs, reads_folders(model.cfg))
    check_inputs(found, out_dir, pictures)
    writer = PredictionWriter(model, Path(out_dir), pictures, font)
    report = PredictionReport(writer.path)
    frames = read_frames(found, pipeline, report.skipped)
    bar = ProgressBar('inference', sum(map(count_frames, found)), disable=not progress)
    whole, last = False, []
    try:
        with bar:
            while batch := list(itertools.islice(frames, 1 if slicing else batch_size)):
                last = batch
                if slicing is None:
                    samples = predict_batch(model, [frame.image for frame in batch], pipeline, score_threshold)
                else:
                    samples = [predict_sliced(model, batch[0].image, pipeline, score_threshold, slicing, batch_size)]
                for frame, sample in zip(batch, samples):
                    writer.add(frame, sample)
                bar.advance(len(batch))
        whole = True
    finally:  # keep the detections made before an interruption
        writer.close(whole)
        report.images, report.detections = len(writer.images), len(writer.annotations)
    if not report.images:
        raise SettingError(f'none of the inputs can be read: {"; ".join(report.skipped.values())}')
    if not report.detections:
        check_finite(model, last[0].image, pipeline)
    return report
