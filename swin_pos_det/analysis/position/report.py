"""All pictures of a model's position: the choice of layers, images and windows."""
from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from ...apis import build_detector
from ...apis.images import check_file
from ...errors import SettingError
from ...ops.windows import Pair
from ...progress import track
from ..detector import model_input, test_images
from .attention_maps import BlockAttention, measure_distances, record_attention
from .attention_plots import plot_attention, plot_attention_distance
from .bias_plots import (
    bias_grid,
    plot_absolute,
    plot_bias,
    plot_bias_at_windows,
    resampled_grid,
    rotation_grid,
)
from .fitted_cpb import fitted_cpb

_OVERVIEW_HEADS = 8


def draw_position(cfg: Config, checkpoint: Union[str, Path, None], folder: Path, window: Pair,
                  image: Union[str, Path, None] = None, point: Optional[Sequence[float]] = None,
                  num_images: int = 8) -> List[Path]:
    """Draw every picture that fits a model's position scheme.

    Args:
        cfg: of a detector with a :class:`~swin_pos_det.models.SwinPosTransformer`.
        checkpoint: see :func:`~swin_pos_det.apis.build_detector`.
        folder: where the PNGs go.
        window: (h, w) to resample biases to.
        image: for the picture of attention. Default: the first of the test set.
        point: (x, y) in the image's own pixels. Default: its middle.
        num_images: of the test set, over which distances are averaged if no image is given.

    Returns:
        The PNGs.

    Raises:
        ValueError, FileNotFoundError: if there is no such image or point, or no test data.
        CheckpointError: if the weights are unreadable.
    """
    if image is not None:
        check_file(Path(image))
    model = build_detector(cfg, checkpoint, whole=False).to(get_device()).eval()
    name = Path(str(cfg.filename)).stem + ('' if checkpoint else ', untrained' if not _pretrained(cfg) else '')
    paths = [Path(image)] if image is not None else test_images(cfg, num_images)
    first, shown, factors = _recorded(model, paths[0])
    place = _place(point, shown, factors, paths[0].name)
    pictures = draw_biases(model.backbone, folder, window, name)
    if model.backbone.use_abs_pos_embed:
        pictures.append(folder / 'absolute.png')
        plot_absolute(model.backbone.absolute_pos_embed, model.backbone.absolute_grid, pictures[-1],
                      f'Similarity of places in the absolute embedding\n{name}')
    further = track(paths[1:], 'images', transient=True, disable=len(paths) < 2)
    others = (_recorded(model, path)[0] for path in further)
    pictures.append(folder / 'distance.png')
    counted = f'{len(paths)} images' if len(paths) > 1 else paths[0].name
    plot_attention_distance(measure_distances(chain([first], others)), pictures[-1],
                            f'Attention distance, {counted}\n{name}')
    pictures.append(folder / 'attention.png')
    plot_attention(shown, first, place, pictures[-1], f'Attention of one token, {paths[0].name}\n{name}')
    return pictures


def _place(point: Optional[Sequence[float]], shown: np.ndarray, factors: Tuple[float, float],
           name: str) -> Tuple[float, float]:
    """Map a point (x, y) of an image to pixels of the resized image; without a point, return the middle."""
    size = shown.shape[1], shown.shape[0]
    own = [round(side / factor) for side, factor in zip(size, factors)]
    if point is None:
        return size[0] / 2, size[1] / 2
    if not all(0 <= at < side for at, side in zip(point, own)):
        raise SettingError(f'the point ({point[0]:g}, {point[1]:g}) is not in {name}, which has {own[0]} x {own[1]} '
                           'pixels')
    x, y = (min(at * factor, side - 1e-3) for at, factor, side in zip(point, factors, size))
    return x, y


def _recorded(model: nn.Module, path: Path) -> Tuple[List[BlockAttention], np.ndarray, Tuple[float, float]]:
    """Return the attention to an image, the resized image, and the scale factors."""
    pixels, shown, factors = model_input(model, path)
    return record_attention(model.backbone, pixels), shown, factors


def draw_biases(backbone: nn.Module, folder: Path, window: Pair, name: str) -> List[Path]:
    """Draw a backbone's scheme over offsets: an overview, every block of each stage, another window.

    For a scheme that rotates queries and keys it draws the cosines of :func:`~.bias_plots.rotation_grid`; for one
    without bias and rotation, nothing.
    """
    layers = [[(f'stage {i + 1}\nblock {j + 1}', block.attn.w_msa) for j, block in enumerate(stage.blocks)]
              for i, stage in enumerate(backbone.stages)]
    nominal = [stage.window_rule.size for stage in backbone.stages]
    learned = [_own_window(stage[0][1], size) for stage, size in zip(layers, nominal)]
    grid_of = next((draw for draw in (bias_grid, rotation_grid) if draw(layers[0][0][1], learned[0]) is not None), None)
    if grid_of is None:
        return []
    what = 'Position bias' if grid_of is bias_grid else 'Cosine between equal contents, as turned,'
    grids = [[(label, grid_of(layer, own)) for label, layer in stage] for stage, own in zip(layers, learned)]
    pictures = [folder / 'bias.png']
    plot_bias([stage[-1] for stage in grids], pictures[0], f'{what} of the last block of each stage\n{name}',
              _OVERVIEW_HEADS)
    for number, stage in enumerate(grids, start=1):
        pictures.append(folder / f'bias_stage{number}.png')
        plot_bias(stage, pictures[-1], f'{what} of stage {number}\n{name}')
    pictures.append(folder / 'bias_windows.png')
    last = [stage[-1] for stage in layers]
    plot_bias_at_windows([(label, grids_at(layer, own, window)) for (label, layer), own in zip(last, learned)],
                         pictures[-1], f'{what} at two windows\n{name}')
    return pictures


def grids_at(layer: nn.Module, own: Pair, window: Pair) -> Dict[str, Tensor]:
    """Return a layer's bias at its learned window, and at another window for each way to get there.

    A learned table is resampled, and a network like Swin V2's is fitted to it. A function of offsets, such as a
    continuous bias, is evaluated, next to a resampling of its values at its own window.
    """
    at, there = f'window {_side(own)}', f'window {_side(window)}'
    learned = bias_grid(layer, own)
    if learned is None:
        return {at: rotation_grid(layer, own), there: rotation_grid(layer, window)}
    grids = {f'learned, {at}': learned}
    if 'resampling' not in layer.position.uses:
        grids[f'{layer.position.name}, {there}'] = bias_grid(layer, window)
    for mode in ('bicubic', 'geometric'):
        grids[f'{mode}, {there}'] = resampled_grid(learned, own, window, mode)
    if 'resampling' in layer.position.uses:
        grids[f'fitted log-CPB, {there}'] = fitted_cpb(learned, own, window)
    return grids


def _side(window: Pair) -> str:
    return str(window[0]) if window[0] == window[1] else f'{window[0]} x {window[1]}'


def _own_window(layer: nn.Module, nominal: Union[Pair, str]) -> Pair:
    """Return the window that a layer's parameters were learned for, else the one that it runs with."""
    return layer.table_window_size or (nominal if isinstance(nominal, tuple) else (7, 7))


def _pretrained(cfg: Config) -> bool:
    return bool(cfg.model.backbone.get('init_cfg'))
