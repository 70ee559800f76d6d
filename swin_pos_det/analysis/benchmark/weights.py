"""One set of weights in the names of every library, so that all of them compute the same function."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, Mapping

import torch
from torch import Tensor, nn

from ...checkpoints import EXPORTS
from ...models import SwinPosTransformer
from .models import GLOBAL_TABLE_WINDOW, MODELS, Window


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Draw weights that make every part matter to the outputs: large tables, norms and biases not ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('relative_position_bias_table'):
                parameter.normal_(std=0.5, generator=generator)
            elif parameter.dim() == 1:
                centre = float('norm' in name and name.endswith('weight'))
                parameter.normal_(mean=centre, std=0.1, generator=generator)
            else:
                parameter.normal_(std=parameter[0].numel()**-0.5, generator=generator)


def write_weights(folder: Path, variant: Mapping[str, Any], window: Window, models: Iterable[str]) -> Dict[str, str]:
    """Write the same random weights for each model.

    Args:
        folder: where the files go.
        variant: ``embed_dims``, ``depths``, ``num_heads``.
        window: of the tables; for 'global' they are of ``GLOBAL_TABLE_WINDOW``.
        models: names, see ``MODELS``.

    Returns:
        The path for each model.
    """
    side = GLOBAL_TABLE_WINDOW if window == 'global' else window
    model = SwinPosTransformer(**variant, window_size=side)
    randomise(model)
    state_dict: Dict[str, Tensor] = dict(model.state_dict())
    windows = [(side, side)] * len(variant['depths'])
    norms = {key: value for key, value in state_dict.items() if key[:4] == 'norm'}
    paths: Dict[str, str] = {}
    for layout in {MODELS[name][1] for name in models}:
        own = EXPORTS[layout].from_mmdet(state_dict, windows)
        if layout == 'mmdet':
            own = state_dict if window == 'global' else own
        if layout in ('timm', 'torchvision'):
            own = {**own, **norms}  # their backbones have no output norms; the builders add them
        path = folder / f'{layout}_{window}.pth'
        torch.save({key: value.clone() for key, value in own.items()}, path)
        paths.update((name, str(path)) for name in models if MODELS[name][1] == layout)
    return paths
