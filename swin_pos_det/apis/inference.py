"""A detector from a config and a checkpoint, and its predictions."""
from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import numpy as np
import torch
from mmdet.evaluation import get_classes
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.runner import load_checkpoint
from mmengine.utils import import_modules_from_strings
from torch import nn

from ..checkpoints import check_heads
from ..engine.nothing_found import nonfinite_part, nothing_found
from ..errors import SettingError, SettingTypeError
from ..evaluation.detections import DetectionsError
from ..models.arguments import WindowSize
from ..models.data_preprocessor import check_channels
from ..type_names import use_scope
from .images import ImageLike
from .pipeline import InputPipeline


def init_detector(config: Union[str, Path, Config], checkpoint: Union[str, Path, None] = None,
                  device: Union[str, torch.device, None] = None, window: Optional[WindowSize] = None,
                  window_policy: Optional[str] = None, cfg_options: Optional[dict[str, Any]] = None) -> nn.Module:
    """Build a detector for inference.

    Args:
        config: an MMDetection config or its path. It is not changed.
        checkpoint: path or URL of the weights, read with torch's ``weights_only`` protection. Default: the
            weights that the backbone's ``init_cfg`` names, else random ones.
        device: such as ``'cuda:0'`` or ``'cpu'``. Default: the accelerator if there is one.
        window: another window than the config's, in the forms of ``SwinPosTransformer.set_window_size``: tables are
            resampled.
        window_policy: another window policy than the config's.
        cfg_options: settings of the config to override, by their dotted names.

    Returns:
        The detector in evaluation mode, with ``cfg`` and ``dataset_meta`` (``classes``, ``palette``): those of the
        checkpoint, else of the config's test data.

    Raises:
        CheckpointError: if the checkpoint is unreadable, or leaves a part of the detector without weights.
        SettingError: if the config has no test data, the window is invalid, the backbone has none, or the data
            preprocessor and the backbone disagree on the number of channels.
    """
    cfg = copy.deepcopy(config) if isinstance(config, Config) else Config.fromfile(str(config))
    cfg.merge_from_dict(cfg_options or {})
    if cfg.get('test_dataloader') is None:
        raise SettingError('the config has no test_dataloader, which says how images are prepared')
    model = build_detector(cfg, checkpoint)
    check_channels(model)
    if window is not None or window_policy is not None:
        _set_window(model, window, window_policy)
    return model.to(device or get_device()).eval()


def register_modules(cfg: Config) -> None:
    """Import the modules that a config names, and set the scope in which its types are looked up."""
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    use_scope(cfg)


def build_detector(cfg: Config, checkpoint: Union[str, Path, None], whole: bool = True) -> nn.Module:
    """Build the detector of a config with its weights.

    Args:
        cfg: an MMDetection config; ``init_cfg`` is removed from it if a checkpoint is given.
        checkpoint: path or URL of the weights. None: those that the backbone's ``init_cfg`` names, else random ones.
        whole: refuse a checkpoint that leaves neck or heads without weights.

    Returns:
        The detector on the CPU, with ``cfg`` and ``dataset_meta``.

    Raises:
        CheckpointError: if the checkpoint is unreadable, or does not fit.
    """
    register_modules(cfg)
    if checkpoint is not None:
        for part in (cfg.model, cfg.model.get('backbone') or {}):
            part.pop('init_cfg', None)  # the checkpoint has all weights: nothing to download
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    meta: dict[str, Any] = {}
    if checkpoint is None:
        model.backbone.init_weights()
    else:
        loaded = load_checkpoint(model, os.fspath(checkpoint), map_location='cpu')
        if whole:
            check_heads(model, loaded.get('state_dict', loaded), checkpoint)
        meta = loaded['meta'] if isinstance(loaded.get('meta'), dict) else {}
    model.cfg = cfg
    model.dataset_meta = _dataset_meta(cfg, meta)
    return model


def predict(model: nn.Module, images: Sequence[ImageLike], batch_size: int = 1,
            score_threshold: float = 0.) -> list[DetDataSample]:
    """Run a detector on images, through its config's test pipeline.

    Args:
        model: of :func:`init_detector`.
        images: paths, or arrays such as (H, W, 3) in BGR order; see :func:`~swin_pos_det.apis.images.read_image`.
        batch_size: images at once, at least 1. Images of a batch are padded to one size, so with ``padding='attend'``
            an image's detections depend slightly on the others.
        score_threshold: detections below it are left out, in [0, 1].

    Returns:
        For each image a data sample on the CPU: ``pred_instances`` has ``bboxes`` (N, 4) as x1, y1, x2, y2 in pixels
        of the image, ``scores`` (N,), ``labels`` (N,), places in ``model.dataset_meta['classes']``, and, if the
        detector predicts them, ``masks`` (N, H, W) booleans.

    Raises:
        ImageError: if one of the images is unusable.
        ValueError: if a setting is out of range, or the detector finds no instances (a panoptic one).
    """
    check_settings(batch_size, score_threshold)
    if isinstance(images, (str, Path, np.ndarray)):
        raise SettingTypeError(f'images must be a list of them, got one {type(images).__name__}')
    pipeline = InputPipeline(model)
    found = []
    for start in range(0, len(images), batch_size):
        batch = [pipeline.read(image) for image in images[start:start + batch_size]]
        found += predict_batch(model, batch, pipeline, score_threshold)
    for image, sample in zip(images, found):
        if not isinstance(image, np.ndarray):
            sample.set_metainfo(dict(img_path=str(image)))
    return found


def predict_batch(model: nn.Module, images: Sequence[np.ndarray], pipeline: InputPipeline,
                  score_threshold: float) -> list[DetDataSample]:
    """Run :func:`predict` on one batch of images that ``pipeline`` has read."""
    data = pseudo_collate([pipeline.prepare(image, index) for index, image in enumerate(images)])
    with torch.no_grad():
        samples = model.test_step(data)
    for sample in samples:
        if 'pred_instances' not in sample:
            raise SettingError(f'{type(model).__name__} finds no instances with this config: only detectors and '
                               'instance segmentation are supported')
        instances = sample.pred_instances
        sample.pred_instances = instances[instances.scores >= score_threshold].cpu()
    return [sample.cpu() for sample in samples]


def check_finite(model: nn.Module, image: np.ndarray, pipeline: InputPipeline) -> None:
    """Look for NaN in a detector that finds nothing in an image that ``pipeline`` has read.

    Raises:
        DetectionsError: if there is NaN or infinity; the message names the part of the detector.
    """
    part = nonfinite_part(model, pseudo_collate([pipeline.prepare(image, 0)]))
    if part is not None:
        raise DetectionsError(nothing_found(part))


def check_settings(batch_size: int, score_threshold: float) -> None:
    """Raise ValueError unless the batch size is at least 1 and the threshold in [0, 1]."""
    if batch_size < 1:
        raise SettingError(f'batch_size must be at least 1, got {batch_size}')
    if not 0 <= score_threshold <= 1:
        raise SettingError(f'score_threshold must be in [0, 1], got {score_threshold:g}')


def _dataset_meta(cfg: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """Return names and colours of the classes: the checkpoint's names, else those of the test data, else COCO's."""
    ours: dict[str, Any] = {}
    if cfg.get('test_dataloader') is not None:
        dataset = copy.deepcopy(cfg.test_dataloader.dataset)
        dataset['lazy_init'] = True  # only its names are needed
        ours = DATASETS.build(dataset).metainfo
    theirs = {key.lower(): value for key, value in (meta.get('dataset_meta') or {}).items()}
    classes = theirs.get('classes') or meta.get('CLASSES') or ours.get('classes') or get_classes('coco')
    return dict(theirs, classes=classes, palette=ours.get('palette') or theirs.get('palette') or 'random')


def _set_window(model: nn.Module, window: Optional[WindowSize], policy: Optional[str]) -> None:
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'set_window_size'):
        raise SettingError(f'cannot set the window: the backbone is a {type(backbone).__name__}, not a '
                           'SwinPosTransformer')
    backbone.set_window_size(backbone.window_size if window is None else window, policy)
