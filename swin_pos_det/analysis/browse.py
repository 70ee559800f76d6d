"""Contact sheets of what a detector learns from: training images after augmentation, with their annotations."""
from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Union

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config

from ..errors import SettingError
from ..progress import track
from ..type_names import use_scope
from ..visualization import InstanceDrawer, contact_sheet, picture_scale, save_picture, to_rgb
from ..visualization.visualizer import instance_arrays

_SHEET_WIDTH, _ROW_HEIGHT = 2400, 360
# Larger pictures are reduced before drawing, so that text stays legible in the sheet.
_MAX_SIDE = 720


def browse(cfg: Config, folder: Union[str, Path], number: int = 48, per_sheet: int = 24,
           seed: int = 0) -> list[Path]:
    """Draw training images as the detector gets them: after the pipeline, with boxes, masks and classes.

    Args:
        cfg: an MMDetection config.
        folder: for ``sheet_1.png`` and so on; earlier sheets there are removed.
        number: of images at most, spread evenly over the data set.
        per_sheet: images of a sheet.
        seed: of the augmentation.

    Returns:
        The sheets.

    Raises:
        SettingError: if the config has no training data, or its pipeline does not give images with boxes.
    """
    loader = cfg.get('train_dataloader')
    if loader is None:
        raise SettingError('the config has no train_dataloader: there are no images to draw')
    use_scope(cfg)
    dataset = DATASETS.build(loader['dataset'])
    meta = dataset.metainfo
    drawer = InstanceDrawer(meta.get('classes') or (), meta.get('palette'))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int)).tolist()
    folder = Path(folder)
    for old in folder.glob('sheet_*.png'):
        old.unlink()
    sheets: list[Path] = []
    tiles: list[np.ndarray] = []
    for index in track(chosen, 'images', transient=True):
        tiles.append(_draw(drawer, _item(dataset, index, seed)))
        if len(tiles) == per_sheet or index == chosen[-1]:
            sheet = contact_sheet(tiles, _SHEET_WIDTH, _ROW_HEIGHT)
            sheets.append(save_picture(sheet, folder / f'sheet_{len(sheets) + 1}.png'))
            tiles.clear()
    return sheets


def _item(dataset: Any, index: int, seed: int) -> dict[str, Any]:
    """Return an item of a data set; its augmentation depends on index and seed only."""
    # Transforms draw from these three generators.
    random.seed(f'{seed} {index}')
    np.random.seed([seed, index])  # noqa: NPY002  mmdet's transforms draw from the global generator
    torch.manual_seed(seed * len(dataset) + index)
    return dataset[index]


def _draw(drawer: InstanceDrawer, item: Any) -> np.ndarray:
    """Return an RGB picture (H, W, 3), uint8."""
    inputs = item.get('inputs') if isinstance(item, dict) else None
    instances = getattr(item.get('data_samples'), 'gt_instances', None) if isinstance(inputs, torch.Tensor) else None
    if instances is None or 'bboxes' not in instances or 'labels' not in instances:
        raise SettingError('the pipeline of train_dataloader gives no image with boxes, as that of a detector does')
    image = to_rgb(inputs.permute(1, 2, 0).numpy())
    return drawer.draw(image, **instance_arrays(instances), scale=picture_scale(image.shape, at_most=_MAX_SIDE))
