"""Rotary position embedding (RoPE) in two dimensions."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Optional, Tuple

import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...ops.runtime import without_autocast
from ...ops.windows import Pair
from .base import Normal, PositionScheme, register_position


@dataclass(frozen=True)
class _Rotary(PositionScheme):
    """The parts that both kinds of rotary embedding share.

    Each pair of neighbouring channels of a query or key is a complex number, rotated by an angle that is linear
    in the token's place (x, y) in the window: ``q' = q exp(i (f_x x + f_y y))``, with frequencies ``f`` for each pair.
    So ``q' k'^T`` depends only on offsets (RoFormer, https://arxiv.org/abs/2104.09864; in two dimensions: RoPE-ViT,
    Heo et al., ECCV 2024, https://arxiv.org/abs/2403.13298, section 3).

    Another window has other places; the frequencies, in radians per token, stay. Nothing is resampled. Angles are
    computed in float32 at least.

    Raises:
        ValueError: for a ``theta`` that is not above 1; on building, if the channels of a head are not a multiple of 4.
    """

    theta: float = 100.

    def __post_init__(self) -> None:
        if isinstance(self.theta, bool) or not isinstance(self.theta, (int, float)) or self.theta <= 1:
            raise SettingError(f'theta, the ratio of the largest and the smallest frequency, must be a number above 1, '
                               f'got {self.theta!r}')

    def build(self, host: nn.Module) -> None:
        """Check the channels of a head; there are no parameters."""
        if host.head_dims % 4:
            raise SettingError(f'{self.name!r} rotates pairs of channels along two axes: heads need a multiple of '
                               f'4 channels, got {host.head_dims}')

    def magnitudes(self, head_dims: int, like: Tensor) -> Tensor:
        """Return (head_dims / 4,) frequencies ``theta ** (-t / (head_dims / 4))``, t = 0, 1, ..."""
        number = head_dims // 4
        steps = torch.arange(number, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        return self.theta**(-steps / number)

    def frequencies(self, host: nn.Module, like: Tensor) -> Tensor:
        """Return (2, heads or 1, head_dims / 2) radians per token along x and y, for each pair of channels."""
        raise NotImplementedError

    def rotate(self, host: nn.Module, q: Tensor, k: Tensor, window: Pair) -> Tuple[Tensor, Tensor]:
        """Rotate queries and keys by the angles of their places."""
        with without_autocast(q):
            along_x, along_y = self.frequencies(host, q)
            rows, cols = (torch.arange(side, device=q.device, dtype=along_x.dtype) for side in window)
            down, across = rows[:, None] * along_y[:, None, :], cols[:, None] * along_x[:, None, :]
            angles = (down[:, :, None] + across[:, None]).flatten(1, 2)  # heads or 1, N, pairs
            cos, sin = angles.cos(), angles.sin()
            return _turn(q, cos, sin), _turn(k, cos, sin)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of channels of (nW, heads, N, D) by angles of (heads or 1, N, D / 2)."""
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


@register_position('rope_axial')
@dataclass(frozen=True)
class AxialRotary(_Rotary):
    __doc__ = _Rotary.__doc__ + """
    'rope_axial': half of the pairs rotate with x, the other half with y, with the same fixed frequencies for every head
    (RoPE-ViT, section 3.2, "axial frequency"). No parameters.
    """

    def frequencies(self, host: nn.Module, like: Tensor) -> Tensor:
        """Return (2, heads or 1, head_dims / 2) radians per token along x and y, for each pair of channels."""
        magnitudes = self.magnitudes(host.head_dims, like)
        zeros = torch.zeros_like(magnitudes)
        return torch.stack((torch.cat((magnitudes, zeros)), torch.cat((zeros, magnitudes)))).unsqueeze(1)


@register_position('rope_mixed')
@dataclass(frozen=True)
class MixedRotary(_Rotary):
    __doc__ = _Rotary.__doc__ + """
    'rope_mixed': frequencies along both axes are learned for every pair, head and block: ``rope_freqs`` of shape
    (2, heads, head_dims / 2) as in the authors' code (RoPE-ViT, section 3.2, "mixed learnable
    frequency"). They start as those of 'rope_axial', with its axes rotated by a random angle for each head.
    """

    theta: float = 10.

    parameters: ClassVar = ('rope_freqs', )
    heads_axis: ClassVar = {'rope_freqs': (3, 1)}

    def build(self, host: nn.Module) -> None:
        """Make the frequencies, and draw them."""
        super().build(host)
        host.rope_freqs = nn.Parameter(torch.empty(2, host.num_heads, host.head_dims // 2))
        self.reset_parameters(host)

    def reset_parameters(self, host: nn.Module, normal: Optional[Normal] = None) -> None:
        """Draw axial frequencies along axes of a random direction, for each head."""
        magnitudes = self.magnitudes(host.head_dims, host.rope_freqs)
        direction = 2 * math.pi * torch.rand(host.num_heads, 1, device=magnitudes.device)
        along = [turn(direction + quarter) * magnitudes for turn in (torch.cos, torch.sin)
                 for quarter in (0., math.pi / 2)]
        drawn = torch.stack((torch.cat(along[:2], dim=1), torch.cat(along[2:], dim=1)))
        with torch.no_grad():
            host.rope_freqs.copy_(drawn)

    def frequencies(self, host: nn.Module, like: Tensor) -> Tensor:
        """Return (2, heads or 1, head_dims / 2) radians per token along x and y, for each pair of channels."""
        return host.rope_freqs.to(torch.promote_types(host.rope_freqs.dtype, torch.float32))
