"""Continuous relative position bias (CPB): a small network over offsets (Swin V2)."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Optional, Union

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...ops.runtime import without_autocast
from ...ops.windows import Pair
from .base import PositionScheme, register_position

HIDDEN_CHANNELS = 512
# A bias is between 0 and this.
MAX_BIAS = 16.
# The coordinate of the farthest offset of the learned window, before the logarithm.
LOG_RANGE = 8.


@dataclass(frozen=True)
class _ContinuousBias(PositionScheme):
    """The parts that both kinds of continuous bias share.

    ``softmax(.. + B + mask) v`` with ``B[q, k] = 16 sigmoid(G(c(q - k)))`` for each head, where ``G`` is a network of
    two linear layers with 512 hidden channels and a ReLU between them, ``cpb_mlp``, and ``c`` maps offsets to
    coordinates, so that those of the learned window have a fixed range (Swin V2, https://arxiv.org/abs/2111.09883,
    section 3.3, equation 3; sigmoid and constants are those of the authors' code).

    For another window the same function is evaluated at the offsets of that window; nothing is resampled.

    Attributes:
        pretrained_window_size: the window, a side or (h, w), by which offsets are measured: that of the training that
            the network's weights come from. Default, or 0: the module's ``table_window_size``.

    Raises:
        ValueError: for another ``pretrained_window_size``.
    """

    pretrained_window_size: Optional[Union[int, Pair]] = None

    parameters: ClassVar = ('cpb_mlp', )
    heads_axis: ClassVar = {'cpb_mlp.2.weight': (2, 0)}

    def __post_init__(self) -> None:
        if self.pretrained_window_size in (None, 0):
            object.__setattr__(self, 'pretrained_window_size', None)
            return
        size = self.pretrained_window_size
        pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
        if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1
                                     for side in pair):
            raise SettingError('pretrained_window_size of a position scheme takes an int of at least 1, or a pair '
                               f'(h, w), got {size!r}; pretrained_window_sizes of the backbone takes one per stage')
        object.__setattr__(self, 'pretrained_window_size', pair)

    @property
    def uses(self) -> tuple:
        """Return 'table_window_size' as the setting used, unless the scheme has its own."""
        return ('table_window_size', ) if self.pretrained_window_size is None else ()

    def build(self, host: nn.Module) -> None:
        """Make the network, with the initial values of ``nn.Linear``."""
        if self.pretrained_window_size is not None:
            host.table_window_size = self.pretrained_window_size
        host.cpb_mlp = nn.Sequential(
            nn.Linear(2, HIDDEN_CHANNELS), nn.ReLU(inplace=True),
            nn.Linear(HIDDEN_CHANNELS, host.num_heads, bias=False))

    def convert(self, name: str, value: Tensor, source: Optional[Pair], target: Pair, mode: str) -> Tensor:
        """Return it as it is, if offsets are measured by the same window."""
        if source is not None and source != target:
            raise SettingError(f'cpb_mlp was learned with offsets measured by a window of {source}, the model measures '
                               f'them by {target}: set pretrained_window_sizes, also at other windows')
        return value

    def table(self, host: nn.Module, window: Pair) -> Tensor:
        """Return the output of the network at each offset of the window."""
        weight = host.cpb_mlp[0].weight
        axes = [self.coordinates(side, learned, weight) for side, learned in zip(window, host.table_window_size)]
        offsets = torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, 1)
        # In full precision: a step of half precision at 16 is a large difference between logits.
        with without_autocast(weight):
            return MAX_BIAS * host.cpb_mlp(offsets).sigmoid()

    def coordinates(self, side: int, learned: int, like: Tensor) -> Tensor:
        """Return the coordinates of the offsets along an axis.

        Args:
            side: of the window, in tokens.
            learned: side of the window that the network was learned for.
            like: a tensor of the wanted dtype and device.

        Returns:
            (2 side - 1,) for the offsets ``-(side - 1) .. side - 1``.
        """
        offsets = torch.arange(1 - side, side, device=like.device, dtype=like.dtype)
        return self.to_coordinates(offsets / max(learned - 1, 1))

    def to_coordinates(self, shares: Tensor) -> Tensor:
        """Map offsets, as shares of the farthest one of the learned window, to coordinates."""
        raise NotImplementedError


@register_position('log_cpb')
@dataclass(frozen=True)
class LogBias(_ContinuousBias):
    __doc__ = _ContinuousBias.__doc__ + """
    'log_cpb': coordinates are ``sign(s) log2(1 + |s|) / log2(8)`` with ``s = 8 offset / (w - 1)`` (Swin V2, section
    3.3, equation 4; the factor of 8 is the authors' code's). Windows larger than the learned one need little
    extrapolation: from 8 to 16 tokens 0.3 of the learned range, where linear coordinates need 1.1.
    """

    def to_coordinates(self, shares: Tensor) -> Tensor:
        """Map them logarithmically."""
        scaled = LOG_RANGE * shares
        return scaled.sign() * torch.log2(1 + scaled.abs()) / math.log2(LOG_RANGE)


@register_position('linear_cpb')
@dataclass(frozen=True)
class LinearBias(_ContinuousBias):
    __doc__ = _ContinuousBias.__doc__ + """
    'linear_cpb': coordinates are ``offset / (w - 1)``, from -1 to 1 at the learned window ``w`` (Swin V2, section 3.3,
    'linear-spaced'; the authors published no code for it; the scale is ours).
    """

    def to_coordinates(self, shares: Tensor) -> Tensor:
        """Return them as they are."""
        return shares
