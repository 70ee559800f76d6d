"""Norm layers that a config can name, in ``norm_cfg=dict(type=...)``."""
from mmdet.registry import MODELS

from ..layers import LayerNorm2d

MODELS.register_module(name='LayerNorm2d', module=LayerNorm2d)
