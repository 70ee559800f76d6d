"""Layer norm over the channels of a feature map, for heads and necks."""
from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels at each place of a map, as in ViTDet's neck and heads.

    (https://arxiv.org/abs/2203.16527, appendix A.2.) ``nn.LayerNorm`` itself expects channels last, and ``GroupNorm``
    with one group averages over places too.

    Args:
        num_channels: C.
        eps: added to the variance.

    Shape:
        ``(B, C, H, W)`` in and out; B may be 0.
    """

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(B, C, H, W)`` over C."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
