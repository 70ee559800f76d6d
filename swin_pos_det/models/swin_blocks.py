"""The parts of the backbone: shifted-window attention, feed-forward network, block, stage.

Module and parameter names are those of mmdet's ``SwinTransformer``, so that checkpoints load in both directions.
"""
from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, build_dropout
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import PositionScheme, WindowAttention, WindowPlan, WindowRule, window_plan
from ..ops import cpu_inference
from ..ops.feed_forward import feed_forward
from ..ops.runtime import record_modules
from ..ops.windows import Pair
from .padding import mask_padding
from .patches import PatchMerging

Cfg = Dict[str, Any]

NORM_ORDERS = ('pre', 'res-post')


class ShiftedWindowAttention(BaseModule):
    """Attention within windows, and stochastic depth.

    mmdet has a module here, ``ShiftWindowMSA``, so parameters are named ``attn.w_msa.*``. Its shift and partition are
    part of the plan.

    Args:
        embed_dims: channels C.
        num_heads: heads.
        table_window_size: the window that the position parameters are learned for.
        drop_path_rate: stochastic depth, 0 to 1.
        **attention: further arguments of :class:`~swin_pos_det.layers.WindowAttention`.
    """

    def __init__(self, embed_dims: int, num_heads: int, table_window_size: Optional[Pair],
                 drop_path_rate: float = 0., **attention: Any) -> None:
        super().__init__()
        self.w_msa = WindowAttention(embed_dims, num_heads, table_window_size, **attention)
        self.drop = build_dropout(dict(type='DropPath', drop_prob=drop_path_rate))

    def forward(self, x: Tensor, plan: WindowPlan, norm: Optional[nn.Module] = None) -> Tensor:
        """Attend within the windows of (B, L, C) tokens, then apply ``norm`` if given and stochastic depth."""
        x = self.w_msa(x, plan)
        return self.drop(x if norm is None else norm(x))


class FeedForward(FFN):
    """mmcv's FFN with less memory in training, and optionally a norm between its result and the residual.

    mmcv's own forward has the residual inside too, hence ``identity``; its ``dropout_layer`` is stochastic depth.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        record_modules(self, FeedForward)  # feed_forward replaces the layers only as long as they are these

    def forward(self, x: Tensor, identity: Tensor, norm: Optional[nn.Module] = None) -> Tensor:
        """Return ``identity`` plus the result for ``x``, after ``norm`` if given and stochastic depth: all (..., C)."""
        x = feed_forward(self, x)
        return identity + self.dropout_layer(x if norm is None else norm(x))


class SwinBlock(BaseModule):
    """A transformer block: attention and feed-forward, each with a norm and a residual.

    The norm comes before them (``x + f(norm(x))``; Swin, equation 3) or after (``x + norm(f(x))``; Swin V2,
    https://arxiv.org/abs/2111.09883, section 3.2, "res-post-norm": deep blocks then add no more than early ones).
    Stochastic depth comes last in both.

    Args:
        embed_dims: channels C.
        feedforward_channels: hidden channels of the feed-forward network.
        drop_rate: dropout after the projections, 0 to 1.
        drop_path_rate: stochastic depth, 0 to 1.
        act_cfg: activation.
        norm_cfg: norm.
        with_cp: recompute the block in the backward pass instead of keeping its activations.
        norm_order: 'pre' or 'res-post'.
        **attention: further arguments of :class:`ShiftedWindowAttention`.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int, drop_rate: float, drop_path_rate: float,
                 act_cfg: Cfg, norm_cfg: Cfg, with_cp: bool, norm_order: str = 'pre', **attention: Any) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm_order = norm_order
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = ShiftedWindowAttention(
            embed_dims, drop_path_rate=drop_path_rate, proj_drop_rate=drop_rate, **attention)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FeedForward(
            embed_dims=embed_dims,
            feedforward_channels=feedforward_channels,
            num_fcs=2,
            ffn_drop=drop_rate,
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
            act_cfg=act_cfg)
        record_modules(self, SwinBlock)  # cpu_inference replaces the forward only as long as they are these

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """Transform (B, L, C) tokens, partitioned into windows by ``plan``, into the same shape."""
        # The same formula in chunks that stay in the cache: large maps on a CPU, without gradients.
        if cpu_inference.can_run(self, x):
            return cpu_inference.run(self, x, plan)
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, plan, use_reentrant=False)
        return self._forward(x, plan)

    def _forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        if self.norm_order == 'res-post':
            x = x + self.attn(x, plan, norm=self.norm1)
            return self.ffn(x, identity=x, norm=self.norm2)
        x = x + self.attn(self.norm1(x), plan)
        return self.ffn(self.norm2(x), identity=x)


class SwinStage(BaseModule):
    """A sequence of blocks, every second one shifted, and the patch merging before the next stage.

    Args:
        embed_dims: channels C.
        drop_path_rates: stochastic depth of each block.
        window_rule: chooses the window for a map; may be replaced at any time.
        downsample: patch merging, which the backbone calls; None after the last stage.
        hide_padding: keep tokens from attending to padding.
        position: the position scheme.
        **block: further arguments of :class:`SwinBlock`.
    """

    def __init__(self, embed_dims: int, drop_path_rates: Sequence[float], window_rule: WindowRule,
                 downsample: Optional[PatchMerging], hide_padding: bool, position: PositionScheme,
                 **block: Any) -> None:
        super().__init__()
        self.window_rule = window_rule
        self.hide_padding = hide_padding
        self.position = position
        self.blocks = ModuleList(
            SwinBlock(embed_dims=embed_dims, drop_path_rate=rate, position=position, **block)
            for rate in drop_path_rates)
        position.build_stage(self, embed_dims)
        self.downsample = downsample

    def forward(self, x: Tensor, hw_shape: Pair, scale: float = 1., valid: Optional[Sequence[Pair]] = None) -> Tensor:
        """Run the blocks, without the patch merging.

        Args:
            x: (B, H * W, C) tokens.
            hw_shape: (H, W).
            scale: of the image against the reference size, for the window policy.
            valid: for each image the (h, w) of its own part of the map, top left. Default: the whole map.

        Returns:
            (B, H * W, C).
        """
        window = self.window_rule.window(hw_shape, scale)
        # Even blocks are unshifted. Under 'fixed' a single window is shifted too, as in mmdet (not in timm).
        plans = [window_plan(x.shape[0], hw_shape, window, shift, x.device, self.hide_padding, valid)
                 for shift in ((0, 0), self.window_rule.shift(hw_shape, window))]
        for i, block in enumerate(self.blocks):
            x = block(x, plans[i % 2])
            if i == 0 and self.position.conditional:
                x = self._encode(mask_padding(x, valid, hw_shape), hw_shape)
        return x

    def _encode(self, x: Tensor, hw_shape: Pair) -> Tensor:
        """Add the position scheme's encoding to (B, H * W, C) tokens."""
        maps = x.transpose(1, 2).unflatten(2, hw_shape).contiguous()  # else Inductor fails at a second size
        return x + self.position.encode(self, maps).flatten(2).transpose(1, 2)
