"""Pictures of what a detector finds, beside what is there."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import matplotlib
import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ...apis import init_detector
from ...errors import SettingError
from ..detector import register_modules

# Labels stay readable on pictures of at least this size (longer side, pixels).
_MIN_SIDE = 640


def draw_predictions(config: Union[str, Path, Config], checkpoint: Union[str, Path], out_dir: Union[str, Path],
                     num_images: int = 12, score_threshold: float = 0.3) -> list[Path]:
    """Runs a detector on validation images and writes a PNG for each: ground truth left, predictions right.

    Args:
        config: a config or its path, such as the one that a run dumps to ``vis_data/config.py``.
        checkpoint: the detector's weights.
        out_dir: where the PNGs go; made if need be. Its ``*.png`` from an earlier call are removed.
        num_images: how many images, spread evenly over the validation set; at least 1.
        score_threshold: predictions below it are not drawn, in [0, 1].

    Returns:
        The PNGs.

    Raises:
        ValueError: if ``num_images`` is below 1, or the config has no validation data.
        CheckpointError: if the checkpoint cannot be read or is of another config.
    """
    if num_images < 1:
        raise SettingError(f'num_images must be at least 1, got {num_images}')
    cfg = config if isinstance(config, Config) else Config.fromfile(str(config))
    if cfg.get('val_dataloader') is None:
        raise SettingError('the config has no val_dataloader: there are no validation images to draw')
    register_modules(cfg)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    model = init_detector(cfg, checkpoint)
    visualizer = DetLocalVisualizer(name='report')
    visualizer.dataset_meta = dataset.metainfo
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for old in out_dir.glob('*.png'):
        old.unlink()
    paths = []
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).round().astype(int))
    for index in tqdm(chosen, desc='predictions', unit='image', leave=False):
        picture = _draw(visualizer, model, dataset, int(index), score_threshold)
        paths.append(out_dir / f'{Path(dataset.get_data_info(int(index))["img_path"]).stem}.png')
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(paths[-1]))
    return paths


def contact_sheet(pictures: list[Path], path: Union[str, Path], columns: int = 3, width: int = 640) -> None:
    """Writes one PNG with all pictures in a grid.

    Args:
        pictures: PNGs, at least one.
        path: of the sheet; overwritten.
        columns: of the grid.
        width: of each picture in it, pixels.
    """
    tiles = [mmcv.imread(str(picture)) for picture in pictures]
    tiles = [mmcv.imresize(tile, (width, round(tile.shape[0] * width / tile.shape[1])), interpolation='area')
             for tile in tiles]
    columns = min(columns, len(tiles))
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start:start + columns]
        height = max(tile.shape[0] for tile in row)
        row += [np.full((height, width, 3), 255, np.uint8)] * (columns - len(row))
        size, white = (height + 8, width + 8), (255, 255, 255)
        rows.append(np.hstack([mmcv.impad(tile, shape=size, pad_val=white) for tile in row]))
    mmcv.imwrite(np.vstack(rows), str(path))


def _draw(visualizer: DetLocalVisualizer, model: torch.nn.Module, dataset: Any, index: int,
          score_threshold: float) -> np.ndarray:
    """An RGB picture (H, W, 3), uint8: both halves and their captions."""
    image = mmcv.imread(dataset.get_data_info(index)['img_path'], channel_order='rgb')
    with torch.no_grad():
        predicted = model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances.cpu()
    predicted = predicted[predicted.scores >= score_threshold]
    truth = _ground_truth(dataset, index, image.shape[:2])
    factor = max(1, -(-_MIN_SIDE // max(image.shape[:2])))
    large = mmcv.imrescale(image, float(factor), interpolation='bicubic')
    halves = [_draw_instances(visualizer, large, instances, factor) for instances in (truth, predicted)]
    captions = _captions(2 * large.shape[1], len(truth), len(predicted), score_threshold)
    return np.vstack([captions, np.hstack(halves)])


def _draw_instances(visualizer: DetLocalVisualizer, image: np.ndarray, instances: InstanceData,
                    factor: int) -> np.ndarray:
    """``image``, which is ``factor`` times as large as ``instances`` say, with them; one colour for each class."""
    classes, palette = visualizer.dataset_meta['classes'], visualizer.dataset_meta['palette']
    colors = [tuple(palette[label]) for label in instances.labels.tolist()]
    visualizer.set_image(image)
    if len(instances) == 0:
        return visualizer.get_image()
    if 'masks' in instances:
        masks = torch.as_tensor(instances.masks).repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        visualizer.draw_binary_masks(masks.numpy().astype(bool), colors=colors, alphas=0.5)
    boxes = instances.bboxes * factor
    visualizer.draw_bboxes(boxes, edge_colors=colors, line_widths=3)
    scores = instances.scores.tolist() if 'scores' in instances else [None] * len(instances)
    texts = [classes[label] if score is None else f'{classes[label]} {score:.2f}'
             for label, score in zip(instances.labels.tolist(), scores)]
    height, width = image.shape[:2]
    corners = boxes[:, :2].clamp(min=torch.zeros(2), max=torch.tensor([width - 50., height - 24.]))
    visualizer.draw_texts(texts, corners, font_sizes=18, colors='white',
                          bboxes=[dict(facecolor='black', alpha=0.7, pad=1, edgecolor='none')] * len(texts))
    return visualizer.get_image()


def _ground_truth(dataset: Any, index: int, shape: tuple[int, int]) -> InstanceData:
    """The annotations of an image at its own size, whatever the pipeline of the dataset does; crowds left out."""
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
    """A strip of that width, RGB, that says what the two halves show; its height goes with the width."""
    size = max(12, width // 70)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')), size)
    strip = Image.new('RGB', (width, size * 8 // 5), 'white')
    draw = ImageDraw.Draw(strip)
    texts = (f'ground truth: {num_truth}', f'predictions: {num_predicted} (score >= {score_threshold:g})')
    for half, text in enumerate(texts):
        draw.text((size // 2 + half * width // 2, strip.height // 2), text, fill='black', anchor='lm', font=font)
    return np.asarray(strip)
