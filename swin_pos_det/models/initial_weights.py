"""The initial weights of a backbone: drawn, or named by ``init_cfg``."""
from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Any, Mapping, Optional

from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from torch import nn

from ..errors import SettingError, SettingTypeError
from ..layers import WindowAttention
from ..type_names import type_name
from .swin_blocks import SwinBlock


def reset_parameters(backbone: nn.Module) -> None:
    """Draw a ``SwinPosTransformer``'s weights as the Swin authors do.

    Embeddings, tables and linear layers are from the normal distribution of std 0.02 truncated at -2 and 2, biases
    zero, norms the identity; with the norm order 'res-post' the norms of a block are zero, so that it adds nothing at
    first (the code of Swin V2). Convolutions keep their values.
    """
    normal = partial(trunc_normal_, std=.02)
    if backbone.use_abs_pos_embed:
        normal(backbone.absolute_pos_embed)
    for module in backbone.modules():
        if isinstance(module, WindowAttention):
            module.position.reset_parameters(module, normal)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_init(module, std=.02, bias=0.)
        elif isinstance(module, nn.LayerNorm):
            constant_init(module, 1.0)
    for module in backbone.modules():
        if isinstance(module, SwinBlock) and module.norm_order == 'res-post':
            constant_init(module.norm1, 0.)
            constant_init(module.norm2, 0.)


def is_pretrained(cfg: Mapping[str, Any]) -> bool:
    """Return whether an entry of ``init_cfg`` names a checkpoint: ``'Pretrained'``, or its class ``PretrainedInit``."""
    return type_name(cfg) in ('Pretrained', 'PretrainedInit')


def resolve_init_cfg(init_cfg: Any, pretrained: Optional[str]) -> Any:
    """Return the ``init_cfg`` that results from ``init_cfg`` and the deprecated ``pretrained``.

    Raises:
        ValueError: for one without a type, pretrained weights without a checkpoint, or both.
        TypeError: if ``pretrained`` is not a string.
    """
    for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg] * bool(init_cfg):
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise SettingError("init_cfg needs a type, such as dict(type='Pretrained', checkpoint='swin.pth'), "
                               f'got {init_cfg!r}')
        if is_pretrained(cfg) and not isinstance(cfg.get('checkpoint'), (str, os.PathLike)):
            raise SettingError("init_cfg=dict(type='Pretrained') needs checkpoint, a path or URL; got "
                               f'{cfg.get("checkpoint")!r}. For random weights, init_cfg=None')
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise SettingTypeError(f'pretrained must be a path or URL, got {pretrained!r}')
    if init_cfg:
        raise SettingError(f'give init_cfg or pretrained, not both: got {init_cfg!r} and {pretrained!r}')
    warnings.warn('pretrained is deprecated, write init_cfg=dict(type="Pretrained", checkpoint=...)', stacklevel=3)
    return dict(type='Pretrained', checkpoint=pretrained)
