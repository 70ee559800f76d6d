"""Images of a config's test data, and the input of a detector's backbone for them."""
from __future__ import annotations

from pathlib import Path
from typing import List, Tuple, Union

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..apis.pipeline import InputPipeline
from ..errors import SettingError
from ..visualization import to_rgb


def test_images(cfg: Config, number: int) -> List[Path]:
    """Return paths of images of the test set, spread evenly over it; fewer if it has no more.

    Raises:
        SettingError: if the config has no test data.
    """
    if cfg.get('test_dataloader') is None:
        raise SettingError('the config has no test_dataloader: name an image')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int))
    return [Path(dataset.get_data_info(int(index))['img_path']) for index in chosen]


test_images.__test__ = False  # not a test, despite its name


def model_input(model: nn.Module, path: Union[str, Path]) -> Tuple[Tensor, np.ndarray, Tuple[float, float]]:
    """Prepare an image as in a test of a detector.

    Args:
        model: of :func:`~swin_pos_det.apis.build_detector`.
        path: of the image.

    Returns:
        The backbone's input (1, C, H, W), normalised and padded; the image (h, w, 3), uint8 RGB, resized, without
        padding; the factors (across, down) by which it was resized.

    Raises:
        ImageError: if the file is unreadable.
    """
    pipeline = InputPipeline(model)
    image = pipeline.read(path)
    packed = pipeline.prepare(image)
    resized = to_rgb(packed['inputs'].permute(1, 2, 0).numpy())
    factors = resized.shape[1] / image.shape[1], resized.shape[0] / image.shape[0]
    with torch.no_grad():
        batch = model.data_preprocessor(pseudo_collate([packed]), False)
    return batch['inputs'], resized, factors
