"""A detector from a config, ready to be looked at: its weights, and its images as it sees them."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple, Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose, LoadImageFromFile
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn

from ..apis.images import read_image
from ..errors import MissingFileError, SettingError
from ..type_names import type_name


def register_modules(cfg: Config) -> None:
    """Import what the config imports, and look types up in its scope."""
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmdet'))


def load_detector(cfg: Config, checkpoint: Union[str, Path, None]) -> nn.Module:
    """The detector of a config with weights, in evaluation mode, on the device at hand.

    Args:
        cfg: see :func:`register_modules`, which must have been called.
        checkpoint: the weights. None: those that the config's ``init_cfg`` names, else random ones.

    Raises:
        CheckpointError: if the weights cannot be read or do not fit.
    """
    if checkpoint is not None:
        for part in (cfg.model, cfg.model.get('backbone', {})):
            part.pop('init_cfg', None)  # the checkpoint has all weights: nothing to download
    model = MODELS.build(cfg.model)
    if checkpoint is not None:
        load_checkpoint(model, str(checkpoint), map_location='cpu')
    else:
        model.backbone.init_weights()
    return model.to(get_device()).eval()


def test_images(cfg: Config, number: int) -> List[Path]:
    """Paths of images of the test set, spread evenly over it; fewer where it has no more.

    Raises:
        ValueError: if the config has no test data.
    """
    if cfg.get('test_dataloader') is None:
        raise SettingError('the config has no test_dataloader: name an image')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int))
    return [Path(dataset.get_data_info(int(index))['img_path']) for index in chosen]


test_images.__test__ = False  # no test, whatever pytest makes of its name


def model_input(cfg: Config, model: nn.Module,
                path: Union[str, Path]) -> Tuple[Tensor, np.ndarray, Tuple[float, float]]:
    """An image as the detector gets it in a test.

    Args:
        cfg: with a test pipeline, whose annotations are left out.
        model: of :func:`load_detector`.
        path: of the image.

    Returns:
        The backbone's input (1, C, H, W), normalised and padded; the image (h, w, 3), uint8 RGB, resized, without
        padding; the factors (across, down) by which it was resized.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it is damaged or no image.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'image {path} does not exist')
    steps: List[Any] = [step for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in type_name(step)]
    before = read_image(path, LoadImageFromFile())
    packed = Compose(steps)(dict(img_path=str(path), img_id=0))
    pixels = packed['inputs'].permute(1, 2, 0).numpy()
    resized = mmcv.bgr2rgb(np.ascontiguousarray(pixels))
    factors = resized.shape[1] / before.shape[1], resized.shape[0] / before.shape[0]
    with torch.no_grad():
        batch = model.data_preprocessor(pseudo_collate([packed]), False)
    return batch['inputs'], resized, factors
