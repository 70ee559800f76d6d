"""Pictures of a detector's predictions beside the ground truth."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw

from ...apis import init_detector
from ...apis.inference import register_modules
from ...errors import SettingError
from ...progress import track
from ...visualization import InstanceDrawer, find_font, picture_scale, save_picture
from ...visualization.fonts import load_font
from ...visualization.visualizer import instance_arrays, own_palette

# Longer side of each half of a picture, pixels: names stay readable, and files small.
_MIN_SIDE = 640
_MAX_SIDE = 2048


def draw_predictions(config: Union[str, Path, Config], checkpoint: Union[str, Path], out_dir: Union[str, Path],
                     num_images: int = 12, score_threshold: float = 0.3) -> list[Path]:
    """Run a detector on validation images and write a PNG for each: ground truth left, predictions right.

    Args:
        config: a config or its path, such as the one that a run dumps to ``vis_data/config.py``.
        checkpoint: the detector's weights.
        out_dir: for the PNGs; created if necessary. Its ``*.png`` from an earlier call are removed.
        num_images: how many images, spread evenly over the validation set; at least 1.
        score_threshold: predictions below it are not drawn, in [0, 1].

    Returns:
        The PNGs.

    Raises:
        ValueError: if ``num_images`` is below 1, or the config has no validation data.
        CheckpointError: if the checkpoint is unreadable or is of another config.
    """
    if num_images < 1:
        raise SettingError(f'num_images must be at least 1, got {num_images}')
    cfg = config if isinstance(config, Config) else Config.fromfile(str(config))
    if cfg.get('val_dataloader') is None:
        raise SettingError('the config has no val_dataloader: there are no validation images to draw')
    register_modules(cfg)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = init_detector(cfg, checkpoint)
    drawer = InstanceDrawer(dataset.metainfo.get('classes') or (), own_palette(dataset.metainfo))
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for old in out_dir.glob('*.png'):
        old.unlink()
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int))
    paths: list[Path] = []
    for index in track(chosen.tolist(), 'predictions', transient=True):
        path = out_dir / f'{Path(dataset.get_data_info(index)["img_path"]).stem}.png'
        if path in paths:  # images of one name in different folders
            path = path.with_stem(f'{path.stem}_{index}')
        paths.append(save_picture(_draw(drawer, model, dataset, index, score_threshold), path))
    return paths


def _draw(drawer: InstanceDrawer, model: torch.nn.Module, dataset: Any, index: int,
          score_threshold: float) -> np.ndarray:
    """Return an RGB picture (H, W, 3), uint8: both halves and their captions."""
    image = mmcv.imread(dataset.get_data_info(index)['img_path'], channel_order='rgb')
    with torch.no_grad():
        predicted = model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances.cpu()
    predicted = predicted[predicted.scores >= score_threshold]
    truth = _ground_truth(dataset, index, image.shape[:2])
    scale = picture_scale(image.shape, at_least=_MIN_SIDE, at_most=_MAX_SIDE)
    halves = [drawer.draw(image, **instance_arrays(instances), scale=scale) for instances in (truth, predicted)]
    captions = _captions(2 * halves[0].shape[1], len(truth), len(predicted), score_threshold)
    return np.vstack([captions, np.hstack(halves)])


def _ground_truth(dataset: Any, index: int, shape: tuple[int, int]) -> InstanceData:
    """Return the annotations of an image at its own size, whatever the dataset's pipeline does; without crowds."""
    info = dataset.get_data_info(index)
    info.update(ori_shape=shape, img_shape=shape)
    info['instances'] = [item for item in info.get('instances', []) if not item.get('ignore_flag')]
    with_mask = all('mask' in item for item in info['instances'])
    loaded = Compose([dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=with_mask)])(info)
    instances = InstanceData(bboxes=loaded['gt_bboxes'].tensor, labels=torch.as_tensor(loaded['gt_bboxes_labels']))
    if with_mask:
        instances.masks = torch.as_tensor(loaded['gt_masks'].to_ndarray().reshape(-1, *shape)).bool()
    return instances


def _captions(width: int, num_truth: int, num_predicted: int, score_threshold: float) -> np.ndarray:
    """Return an RGB strip of that width with the captions of both halves; its height grows with the width."""
    size = max(12, width // 70)
    font = load_font(find_font(()), size)
    strip = Image.new('RGB', (width, size * 8 // 5), 'white')
    draw = ImageDraw.Draw(strip)
    texts = (f'ground truth: {num_truth}', f'predictions: {num_predicted} (score >= {score_threshold:g})')
    for half, text in enumerate(texts):
        draw.text((size // 2 + half * width // 2, strip.height // 2), text, fill='black', anchor='lm', font=font)
    return np.asarray(strip)
