"""The variant of a Swin backbone, read from its weights: widths, depths, heads, windows and the paper's name."""
from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from torch import Tensor, nn

from ..layers import POSITIONS, parameters_of_position, table_size
from ..layers.position import axes_of_heads
from ..ops.windows import Pair
from .formats import TABLE

# Swin (https://arxiv.org/abs/2103.14030), section 3.3: embed_dims, depths, num_heads.
PUBLISHED = {
    'Swin-T': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    'Swin-S': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    'Swin-B': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    'Swin-L': (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
_FIRST = 'stages.0.blocks.0.attn.w_msa.'
_BLOCK = re.compile(r'stages\.(\d+)\.blocks\.(\d+)\.')


@dataclass(frozen=True)
class Variant:
    """The shape of a backbone.

    Attributes:
        embed_dims: channels of the first stage.
        depths: blocks of each stage; 0 if the weights have none.
        num_heads: heads of each stage; 0 if the weights do not show them.
        windows: the window (h, w) of each stage's tables; None if no square window has that many rows.
        patch_size: (h, w) in pixels.
        in_channels: of the image.
        absolute_grid: (h, w) in patches of the absolute position embedding; None without one, or if it is unknown.
        mlp_ratio: hidden channels of the feed-forward networks over C.
        qkv_bias: whether queries, keys and values have a bias.
        patch_norm: whether a norm follows the patch embedding.
        use_abs_pos_embed: whether there is an absolute position embedding.
        attention: 'dot', or 'cosine' as in Swin V2.
        key_bias: whether keys have a bias where queries have.
        norm_order: 'pre', or 'res-post' as in Swin V2; 'pre' if the weights do not show it.
        position: the name of the position scheme; None if it is unknown.
        position_parameters: names of the parameters and modules that it has in an attention module.
    """

    embed_dims: int
    depths: Tuple[int, ...]
    num_heads: Tuple[int, ...]
    windows: Tuple[Optional[Pair], ...]
    patch_size: Pair
    in_channels: int
    absolute_grid: Optional[Pair] = None
    mlp_ratio: float = 4.
    qkv_bias: bool = True
    patch_norm: bool = True
    use_abs_pos_embed: bool = False
    attention: str = 'dot'
    key_bias: bool = True
    norm_order: str = 'pre'
    position: Optional[str] = None
    position_parameters: Tuple[str, ...] = ()

    @property
    def architecture(self) -> Tuple[int, Tuple[int, ...], Tuple[int, ...]]:
        """Return everything that weights do not adapt to."""
        return self.embed_dims, self.depths, self.num_heads

    @property
    def name(self) -> str:
        """Return the paper's name, or ``'custom'``."""
        name = next((name for name, known in PUBLISHED.items() if known == self.architecture), 'custom')
        return name.replace('Swin', 'SwinV2') if self.attention == 'cosine' else name

    @property
    def version(self) -> Optional[int]:
        """Return the version of Swin: 1, 2, or None for anything in between."""
        return {('dot', 'pre'): 1, ('cosine', 'res-post'): 2}.get((self.attention, self.norm_order))

    @property
    def image_size(self) -> Optional[Pair]:
        """Return (h, w) in pixels that the absolute position embedding is for."""
        grid = self.absolute_grid
        return None if grid is None else (grid[0] * self.patch_size[0], grid[1] * self.patch_size[1])

    def __str__(self) -> str:
        settings = f'embed_dims={self.embed_dims}, depths={self.depths}, num_heads={self.num_heads}'
        return f'{self.name} ({settings})'


def square_root(number: int) -> int:
    """Return the integer square root, or 0 if ``number`` is not a square."""
    root = math.isqrt(number)
    return root if root * root == number else 0


def square_window(rows: int) -> Optional[Pair]:
    """Return the square window whose table has that many rows, or None."""
    side = square_root(rows)
    return ((side + 1) // 2, (side + 1) // 2) if side % 2 else None


def describe_weights(state_dict: Mapping[str, Tensor], windows: Optional[Sequence[Sequence[int]]] = None,
                     grid: Optional[Sequence[int]] = None, position: Optional[str] = None) -> Optional[Variant]:
    """Read the shape of a backbone from its weights.

    Args:
        state_dict: in mmdet's names, without a prefix.
        windows: of the stages' tables, if known.
        grid: of the absolute position embedding, if known.
        position: the name of the position scheme, if known.

    Returns:
        The variant, or None if the weights are not a Swin backbone's (no patch embedding or no blocks).
    """
    patches = state_dict.get('patch_embed.projection.weight')
    blocks: Dict[int, List[int]] = {}
    for key in state_dict:
        match = _BLOCK.match(key)
        if match:
            blocks.setdefault(int(match[1]), []).append(int(match[2]))
    if patches is None or patches.dim() != 4 or not blocks:
        return None
    heads, found = [], []
    stages = range(max(blocks) + 1)
    for stage in stages:
        table = state_dict.get(f'stages.{stage}.blocks.0.attn.w_msa.{TABLE}')
        heads.append(_num_heads(state_dict, f'stages.{stage}.blocks.0.attn.w_msa.'))
        noted = tuple(windows[stage]) if windows and stage < len(windows) and windows[stage] else None
        if table is None or (noted and math.prod(table_size(noted)) == table.shape[0]):
            found.append(noted)
        else:
            found.append(square_window(table.shape[0]))
    own = _position_parameters(state_dict)
    return Variant(
        embed_dims=patches.shape[0],
        depths=tuple(max(blocks.get(stage, [-1])) + 1 for stage in stages),
        num_heads=tuple(heads),
        windows=tuple(found),
        patch_size=tuple(patches.shape[2:]),
        in_channels=patches.shape[1],
        absolute_grid=_absolute_grid(state_dict.get('absolute_pos_embed'), grid),
        mlp_ratio=_mlp_ratio(state_dict.get('stages.0.blocks.0.ffn.layers.0.0.weight')),
        qkv_bias=not {f'{_FIRST}qkv.bias', f'{_FIRST}q_bias'}.isdisjoint(state_dict),
        patch_norm='patch_embed.norm.weight' in state_dict,
        use_abs_pos_embed='absolute_pos_embed' in state_dict,
        attention='cosine' if f'{_FIRST}logit_scale' in state_dict else 'dot',
        key_bias=f'{_FIRST}q_bias' not in state_dict,
        norm_order=_norm_order(state_dict),
        position=position or next((name for name, found in POSITIONS.items() if own and found.parameters == own), None),
        position_parameters=own)


def _num_heads(state_dict: Mapping[str, Tensor], attention: str) -> int:
    """Return the number of heads of an attention module from any parameter that shows it; 0 if none does."""
    for name, (dims, axis) in {**axes_of_heads(), 'logit_scale': (3, 0)}.items():
        value = state_dict.get(attention + name)
        if value is not None and value.dim() == dims:
            return value.shape[axis]
    return 0


def _norm_order(state_dict: Mapping[str, Tensor]) -> str:
    """Detect the norm order from the first patch merging's norm: on 4 C channels before the reduction, or 2 C after."""
    norm = state_dict.get('stages.0.downsample.norm.weight')
    reduction = state_dict.get('stages.0.downsample.reduction.weight')
    if norm is None or reduction is None or reduction.dim() != 2:
        return 'pre'
    return 'res-post' if norm.shape[0] == reduction.shape[0] else 'pre'


def _position_parameters(state_dict: Mapping[str, Tensor]) -> Tuple[str, ...]:
    names = {key[len(_FIRST):].split('.')[0] for key in state_dict if key.startswith(_FIRST)}
    return tuple(name for name in parameters_of_position() if name in names)


def _mlp_ratio(weight: Optional[Tensor]) -> float:
    return 4. if weight is None or weight.dim() != 2 else weight.shape[0] / weight.shape[1]


def _absolute_grid(embedding: Optional[Tensor], noted: Optional[Sequence[int]]) -> Optional[Pair]:
    if embedding is None:
        return None
    if noted is not None and embedding.dim() == 3 and noted[0] * noted[1] == embedding.shape[1]:
        return tuple(noted)
    if embedding.dim() == 4:  # (1, C, h, w): the Swin authors' detection code, mmdet before 2.17
        return embedding.shape[2], embedding.shape[3]
    side = square_root(embedding.shape[1]) if embedding.dim() == 3 else 0
    return (side, side) if side else None


def describe_model(backbone: nn.Module) -> Variant:
    """Return the variant of a ``SwinPosTransformer``."""
    attention = [stage.blocks[0].attn.w_msa for stage in backbone.stages]
    projection = backbone.patch_embed.projection
    return Variant(
        embed_dims=backbone.num_features[0],
        depths=tuple(len(stage.blocks) for stage in backbone.stages),
        num_heads=tuple(module.num_heads for module in attention),
        windows=tuple(module.table_window_size for module in attention),
        patch_size=tuple(projection.kernel_size),
        in_channels=projection.in_channels,
        absolute_grid=backbone.absolute_grid if backbone.use_abs_pos_embed else None,
        mlp_ratio=_mlp_ratio(backbone.stages[0].blocks[0].ffn.layers[0][0].weight),
        qkv_bias=attention[0].projection_bias() is not None,
        patch_norm=backbone.patch_embed.norm is not None,
        use_abs_pos_embed=backbone.use_abs_pos_embed,
        attention=attention[0].attention,
        key_bias=attention[0].q_bias is None,
        norm_order=backbone.stages[0].blocks[0].norm_order,
        position=backbone.position.name,
        position_parameters=_position_parameters(dict(backbone.named_parameters())))


def config_changes(wanted: Variant, model: Variant) -> Dict[str, Any]:
    """Return the settings that turn the backbone ``model`` into ``wanted``, for weights that do not adapt to it."""
    settings: Dict[str, Any] = {}
    for name in ('embed_dims', 'depths', 'num_heads', 'patch_size', 'mlp_ratio', 'qkv_bias', 'patch_norm',
                 'use_abs_pos_embed', 'attention', 'key_bias', 'norm_order'):
        value = getattr(wanted, name)
        if value != getattr(model, name) and not (name == 'num_heads' and 0 in value):
            settings[name] = value
    if wanted.position and not set(model.position_parameters) <= set(wanted.position_parameters):
        settings['position'] = wanted.position
    if wanted.version == 2 and None not in wanted.windows and wanted.windows != model.windows:
        settings['pretrained_window_sizes'] = list(wanted.windows)
    stages = len(wanted.depths)
    if stages != len(model.depths):
        settings.update(strides=(wanted.patch_size[0], *(2 for _ in range(stages - 1))),
                        out_indices=tuple(range(stages)))
    return settings
