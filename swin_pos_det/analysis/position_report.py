"""All pictures of a model's position: which there are, of which layers and images."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from torch import Tensor, nn
from tqdm import tqdm

from .attention_maps import record_attention
from .detector import load_detector, model_input, register_modules, test_images
from .position_plots import (
    bias_grid,
    plot_attention,
    plot_attention_distance,
    plot_bias,
    plot_bias_at_windows,
    resampled_grid,
)

Pair = Tuple[int, int]
_OVERVIEW_HEADS = 8


def draw_position(cfg: Config, checkpoint: Union[str, Path, None], folder: Path, window: Pair,
                  image: Union[str, Path, None] = None, point: Optional[Sequence[float]] = None,
                  num_images: int = 8) -> List[Path]:
    """Draw every picture that fits a model's position scheme.

    Args:
        cfg: of a detector with a :class:`~swin_pos_det.models.SwinPosTransformer`.
        checkpoint: see :func:`~.detector.load_detector`.
        folder: where the PNGs go.
        window: (h, w) to resample biases to.
        image: whose attention is drawn. Default: the first of the test set.
        point: (x, y) in the image's own pixels. Default: its middle.
        num_images: of the test set, over which distances are averaged if no image is given.

    Returns:
        The PNGs.

    Raises:
        ValueError, FileNotFoundError: if there is no such image or point, or no test data.
        CheckpointError: if the weights cannot be read.
    """
    register_modules(cfg)
    model = load_detector(cfg, checkpoint)
    name = Path(str(cfg.filename)).stem + ('' if checkpoint else ', untrained' if not _pretrained(cfg) else '')
    pictures = draw_biases(model.backbone, folder, window, name)
    paths = [Path(image)] if image is not None else test_images(cfg, num_images)
    inputs = [model_input(cfg, model, path) for path in tqdm(paths, desc='images', unit='image', leave=False)]
    recorded = [record_attention(model.backbone, pixels) for pixels, _, _ in inputs]
    counted = f'{len(paths)} images' if len(paths) > 1 else paths[0].name
    pictures.append(folder / 'distance.png')
    plot_attention_distance(recorded, pictures[-1], f'How far heads look, {counted}\n{name}')
    _, shown, (across, down) = inputs[0]
    place = (shown.shape[1] / 2, shown.shape[0] / 2) if point is None else (point[0] * across, point[1] * down)
    pictures.append(folder / 'attention.png')
    plot_attention(shown, recorded[0], place, pictures[-1], f'What one token attends to, {paths[0].name}\n{name}')
    return pictures


def draw_biases(backbone: nn.Module, folder: Path, window: Pair, name: str) -> List[Path]:
    """Draw the biases of a backbone, where it has them: an overview, every block of each stage, another window."""
    layers = [[(f'stage {i + 1}\nblock {j + 1}', block.attn.w_msa) for j, block in enumerate(stage.blocks)]
              for i, stage in enumerate(backbone.stages)]
    grids = [[(label, bias_grid(layer, _own_window(layer))) for label, layer in stage] for stage in layers]
    pictures = [folder / 'bias.png']
    plot_bias([stage[-1] for stage in grids], pictures[0],
              f'Relative position bias of the last block of each stage\n{name}', _OVERVIEW_HEADS)
    for number, stage in enumerate(grids, start=1):
        pictures.append(folder / f'bias_stage{number}.png')
        plot_bias(stage, pictures[-1], f'Relative position bias of stage {number}\n{name}')
    pictures.append(folder / 'bias_windows.png')
    plot_bias_at_windows([(label, grids_at(layer, window)) for label, layer in (stage[-1] for stage in layers)],
                         pictures[-1], f'The same bias at two windows\n{name}')
    return pictures


def grids_at(layer: nn.Module, window: Pair) -> Dict[str, Tensor]:
    """A layer's bias at its learned window, and what each way to go to another window makes of it."""
    own = _own_window(layer)
    learned = bias_grid(layer, own)
    grids = {f'learned, window {_side(own)}': learned}
    for mode in ('bicubic', 'geometric'):
        grids[f'{mode}, window {_side(window)}'] = resampled_grid(learned, own, window, mode)
    return grids


def _side(window: Pair) -> str:
    return str(window[0]) if window[0] == window[1] else f'{window[0]} x {window[1]}'


def _own_window(layer: Any) -> Pair:
    return layer.table_window_size


def _pretrained(cfg: Config) -> bool:
    return bool(cfg.model.backbone.get('init_cfg'))
