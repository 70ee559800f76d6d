"""The parts of the backbone: shifted-window attention, block, stage.

Module and parameter names are those of mmdet's ``SwinTransformer``, so that checkpoints go both ways.
"""
from __future__ import annotations

from typing import Any, Container, Dict, Optional, Sequence, Tuple

import torch
import torch.utils.checkpoint as checkpoint
from mmcv.cnn import Linear, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import FFN, build_dropout
from mmengine.model import BaseModule, ModuleList, Sequential
from torch import Tensor, nn

from ..layers import (
    ROWS,
    Cut,
    Layer,
    PositionScheme,
    WindowAttention,
    WindowPlan,
    WindowRule,
    blocks,
    can_go_by_rows,
    gelu_linear,
    is_plain,
    is_tracing,
    merge,
    prepared_layer,
    prepared_linear,
    recurring_rows,
)
from .block_operator import call_as_operator, can_be_operator, numbered
from .patches import PatchMerging
from .valid_area import zero_outside

Pair = Tuple[int, int]
Cfg = Dict[str, Any]

NORM_ORDERS = ('pre', 'res-post')


class ShiftedWindowAttention(BaseModule):
    """Attention within windows, and stochastic depth.

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
        """(B, H * W, C) tokens, cut into windows as ``plan`` says -> the same shape, after ``norm`` if given."""
        x = self.w_msa(x, plan)
        return self.drop(x if norm is None else norm(x))


class FeedForward(FFN):
    """mmcv's FFN with less memory in training, and, where asked for, a norm between its result and the residual."""

    def forward(self, x: Tensor, identity: Tensor, norm: Optional[nn.Module] = None) -> Tensor:
        """(..., C) tokens and what their result, after ``norm`` if given, is added to -> the sum."""
        return identity + self.added(x, norm)

    def added(self, x: Tensor, norm: Optional[nn.Module] = None) -> Tensor:
        """(..., C) tokens -> what is added to the residual, after ``norm`` if given."""
        if self._can_keep_less():
            (first, _, _), second, dropout = self.layers
            x = dropout(gelu_linear(first(x), second.weight, second.bias))
        else:
            x = self.layers(x)
        return self.dropout_layer(x if norm is None else norm(x))

    def _can_keep_less(self) -> bool:
        """Whether GELU's result need not be kept: in training, without dropout on it, if the layers are plain ones."""
        if not torch.is_grad_enabled() or is_tracing() or not self._is_as_built():
            return False
        (_, activation, dropout), second, _ = self.layers
        return _is_gelu(activation) and dropout.p == 0 and is_plain(second, nn.Linear, Linear)

    def _is_as_built(self) -> bool:
        """Whether the layers are arranged as :meth:`added` knows them; which they are, is not looked at."""
        layers = self.layers
        return (is_plain(layers, Sequential, nn.Sequential) and len(layers) == 3
                and is_plain(layers[0], Sequential, nn.Sequential) and len(layers[0]) == 3
                and all(is_plain(dropout, nn.Dropout) for dropout in (layers[0][2], layers[2])))

    def prepared(self, rows: Container[int]) -> Layer:
        """For inference, :meth:`added` without a norm, of some tokens after the other, often ``rows`` at once."""
        if not self._is_as_built():
            return self.added
        (first, activation, _), second, _ = self.layers
        if not _is_gelu(activation) or not all(is_plain(layer, nn.Linear, Linear) for layer in (first, second)):
            return self.added
        hidden = prepared_linear(first.weight, first.bias, rows, gelu=True)
        out = prepared_linear(second.weight, second.bias, rows)
        return lambda x: out(hidden(x))


def _is_gelu(activation: nn.Module) -> bool:
    return is_plain(activation, nn.GELU) and activation.approximate == 'none'


class SwinBlock(BaseModule):
    """A transformer block: attention and feed-forward, each with a norm and a residual.

    The norm stands before them (``x + f(norm(x))``; Swin, equation 3) or after (``x + norm(f(x))``; Swin V2,
    https://arxiv.org/abs/2111.09883, section 3.2, "res-post-norm": what a block adds is then no larger in deep blocks
    than in early ones). Stochastic depth comes last in both.

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
        self._number = numbered(self)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        """Of copies and of pickled blocks, which need numbers of their own."""
        super().__setstate__(state)
        self._number = numbered(self)

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """(B, H * W, C) tokens, cut into windows as ``plan`` says -> the same shape."""
        if self.with_cp and x.requires_grad:
            return checkpoint.checkpoint(self._forward, x, plan, use_reentrant=False)
        return self._forward(x, plan)

    def _forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        if can_go_by_rows(x) and self.is_as_built():
            return self._forward_by_rows(x, plan)
        if self.norm_order == 'res-post':
            x = x + self.attn(x, plan, norm=self.norm1)
            return self.ffn(x, identity=x, norm=self.norm2)
        x = x + self.attn(self.norm1(x), plan)
        return self.ffn(self.norm2(x), identity=x)

    def is_as_built(self) -> bool:
        """Whether modules that going by rows never calls are this block's own, in evaluation mode, and nobody waits."""
        attention, drops = self.attn, (nn.Dropout, nn.Identity, DropPath)
        if any(module.training for module in self.modules()):
            return False
        if not is_plain(attention, ShiftedWindowAttention) or not is_plain(attention.w_msa, WindowAttention):
            return False
        passed_over = attention.drop, attention.w_msa.proj_drop, getattr(self.ffn, 'dropout_layer', None)
        return is_plain(self.ffn, FeedForward) and all(is_plain(module, *drops) for module in passed_over)

    def _forward_by_rows(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """The same, but attention for some windows at a time, and all that follows for some tokens at a time."""
        tokens, attention, post = x.flatten(0, 1), self.attn.w_msa, self.norm_order == 'res-post'
        compact = attention.compact(plan)
        if compact is not None:
            attended = attention.attend_by_windows(tokens, None if post else self.norm1, compact)
        else:
            attended = merge(attention.attend(x if post else self.norm1(x), plan), plan)
        in_full = recurring_rows({ROWS: len(tokens) // ROWS})
        project, feed_forward = prepared_layer(attention.proj, in_full, nn.Linear), self.ffn.prepared(in_full)

        out = torch.empty_like(tokens)
        for some in blocks(len(tokens), ROWS):
            added = project(attended[some])
            rows = torch.add(tokens[some], self.norm1(added) if post else added, out=out[some])
            rows += self.norm2(feed_forward(rows)) if post else feed_forward(self.norm2(rows))
        return out.view_as(x)


class SwinStage(BaseModule):
    """A sequence of blocks, every second one shifted, and the patch merging that leads to the next stage.

    Args:
        depth: number of blocks.
        drop_path_rates: stochastic depth of each block.
        window_rule: the window that a map gets; may be replaced at any time.
        hide_padding: keep tokens from attending to padding.
        downsample: patch merging, or None after the last stage.
        embed_dims: channels C.
        position: the position scheme.
        **block: further arguments of :class:`SwinBlock`.
    """

    def __init__(self, depth: int, drop_path_rates: Sequence[float], window_rule: WindowRule, hide_padding: bool,
                 downsample: Optional[PatchMerging], embed_dims: int, position: PositionScheme, **block: Any) -> None:
        super().__init__()
        self.window_rule = window_rule
        self.hide_padding = hide_padding
        self.position = position
        self.blocks = ModuleList(
            SwinBlock(embed_dims=embed_dims, drop_path_rate=drop_path_rates[i], position=position, **block)
            for i in range(depth))
        position.build_stage(self, embed_dims)
        self.downsample = downsample

    def forward(self, x: Tensor, hw_shape: Pair, scale: float = 1., valid: Optional[Sequence[Pair]] = None) -> Tensor:
        """The blocks, without the patch merging.

        Args:
            x: (B, H * W, C) tokens.
            hw_shape: (H, W).
            scale: of the image against the reference size, for the window policy.
            valid: for each image the (h, w) of its own part of the map, top left. Default: the whole map.

        Returns:
            (B, H * W, C).
        """
        window = self.window_rule.window(hw_shape, scale)
        shifts = (0, 0), self.window_rule.shift(hw_shape, window)
        cuts = [Cut(hw_shape, window, shift, self.hide_padding, valid) for shift in shifts]
        as_operators = all(type(block) is SwinBlock and can_be_operator(block, x) for block in self.blocks)
        plans = [] if as_operators else [cut.plan(x.shape[0], x.device) for cut in cuts]
        for i, block in enumerate(self.blocks):
            x = call_as_operator(block, x, block._number, cuts[i % 2]) if as_operators else block(x, plans[i % 2])
            if i == 0 and self.position.conditional:
                x = self._encode(zero_outside(x, valid, hw_shape), hw_shape)
        return x

    def _encode(self, x: Tensor, hw_shape: Pair) -> Tensor:
        """(B, H * W, C) tokens with what the position scheme makes of them added."""
        maps = x.transpose(1, 2).unflatten(2, hw_shape).contiguous()  # else Inductor fails at a second size
        return x + self.position.encode(self, maps).flatten(2).transpose(1, 2)
