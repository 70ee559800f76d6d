"""Swin Transformer V2: the same backbone with the settings of the second paper."""
from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS

from ..layers import PositionSetting
from .arguments import WindowSize
from .swin_transformer import SwinPosTransformer


@MODELS.register_module()
class SwinPosTransformerV2(SwinPosTransformer):
    """Swin Transformer V2 (https://arxiv.org/abs/2111.09883): :class:`SwinPosTransformer` with other defaults.

    Cosine attention with a learned scale, a log-spaced continuous position bias, norms after attention, feed-forward
    and patch merging, and no bias of keys. Every other setting, windows and padding are as there.

    The network behind the bias is learned for a window, ``pretrained_window_sizes``; another ``window_size`` evaluates
    it at other offsets. Microsoft's weights of window 16 and images of 256 px have 8 in the last stage, whose map is no
    larger: ``pretrained_window_sizes=[16, 16, 16, 8]``.

    T, S, B and L have the widths, depths and heads of Swin's: see ``embed_dims``, ``depths`` and ``num_heads`` there.

    Args:
        window_size: 8, where V1 has 7, since V2 is trained on images of 256 px.
        position: 'log_cpb'.
        attention: 'cosine'.
        key_bias: False.
        norm_order: 'res-post'.
        **settings: of :class:`SwinPosTransformer`, by name.

    Raises:
        SettingError, SettingTypeError: if a setting is invalid; the message says what is valid.

    Examples:
        >>> backbone = SwinPosTransformerV2(window_size=16, pretrained_window_sizes=8)
        >>> [tuple(f.shape) for f in backbone(torch.zeros(1, 3, 250, 333))]
        [(1, 96, 63, 84), (1, 192, 32, 42), (1, 384, 16, 21), (1, 768, 8, 11)]
    """

    def __init__(self,
                 *,
                 window_size: WindowSize = 8,
                 position: PositionSetting = 'log_cpb',
                 attention: str = 'cosine',
                 key_bias: bool = False,
                 norm_order: str = 'res-post',
                 **settings: Any) -> None:
        super().__init__(window_size=window_size, position=position, attention=attention, key_bias=key_bias,
                         norm_order=norm_order, **settings)
