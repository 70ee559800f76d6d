"""Small models that the tests share, and weights that make every part of them matter."""
from __future__ import annotations

from typing import Any, Tuple

from mmdet.models.backbones.swin import SwinTransformer
from torch import nn

from swin_pos_det.models import SwinPosTransformer

MICRO = dict(embed_dims=16, depths=(2, 2, 2), num_heads=(2, 4, 8), strides=(4, 2, 2), out_indices=(0, 1, 2))
VARIANTS = {
    'T': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'S': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'B': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    'L': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}


def randomise(model: nn.Module) -> None:
    """Draw weights that make every part matter: norms and biases are not ones and zeros, tables are large."""
    for name, parameter in model.named_parameters():
        if name.endswith('relative_position_bias_table'):
            nn.init.normal_(parameter, std=1.)
        elif parameter.dim() < 2:
            nn.init.normal_(parameter, mean=float('norm' in name and name.endswith('weight')), std=.2)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel()**-.5)


def pair(**settings: Any) -> Tuple[SwinTransformer, SwinPosTransformer]:
    """Build mmdet's model and ours with the same weights, without stochastic depth."""
    settings = dict(drop_path_rate=0., **settings)
    theirs, ours = SwinTransformer(**settings), SwinPosTransformer(**settings)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def micro(**settings: Any) -> SwinPosTransformer:
    """Build ours at the sizes of :data:`MICRO`, with random weights and without stochastic depth."""
    model = SwinPosTransformer(**{**MICRO, 'drop_path_rate': 0., **settings})
    randomise(model)
    return model
