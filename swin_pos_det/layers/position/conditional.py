"""Position that depends on the features: a convolution over the map."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .base import PositionScheme, register_position


@register_position('peg')
@dataclass(frozen=True)
class PositionEncodingGenerator(PositionScheme):
    """A depth-wise 3x3 convolution over the map of tokens, ``x + conv(x)``, after the first block of each stage (CPVT,
    https://arxiv.org/abs/2102.10882, section 3.2; Twins, https://arxiv.org/abs/2104.13840, places one in each stage).

    The zeros around the map mark its border, and the convolution propagates that to neighbours. It has no grid of
    its own, so nothing is resampled. The convolution is the stage's ``peg``. If padding is hidden, the zeros begin
    at the end of the image.
    """

    parameters = ('peg', )
    no_decay = ()
    conditional = True

    def build_stage(self, stage: nn.Module, dims: int) -> None:
        """Make the convolution."""
        stage.peg = nn.Conv2d(dims, dims, 3, padding=1, groups=dims)

    def encode(self, stage: nn.Module, maps: Tensor) -> Tensor:
        """Return conv(maps)."""
        return stage.peg(maps)
