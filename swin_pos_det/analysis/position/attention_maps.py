"""The attention weights of a backbone, recorded in a forward, and measures of distance and place.

Letters used in shapes: ``nW`` windows, ``N`` tokens in a window, ``H, W`` the feature map of a stage in tokens.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import SettingError
from ...layers import WindowAttention, WindowPlan, window_partition, window_reverse
from ...ops.masks import WindowGroup
from ...ops.windows import Pair


@dataclass(frozen=True)
class BlockAttention:
    """The attention weights of one block in a forward of one image.

    Attributes:
        stage, block: which block, from 0.
        weights: (nW, heads, N, N), float32; entry ``[.., q, k]`` is the weight of key k for query q; rows sum
            to 1.
        plan: how the map was partitioned into windows.
        size: the map (H, W).
        stride: pixels of the image per token, down and across.
    """

    stage: int
    block: int
    weights: Tensor
    plan: WindowPlan
    size: Pair
    stride: Pair

    @property
    def real(self) -> Tensor:
        """Return (nW, N) bool: which slots hold a token of the map; the others are padding."""
        slots = torch.ones(self.plan.gather.numel(), dtype=torch.bool, device=self.weights.device)
        if self.plan.pad_slots is not None:
            slots[self.plan.pad_slots] = False
        return slots.view(self.plan.num_windows, -1)


def record_attention(backbone: nn.Module, image: Tensor,
                     forward: Optional[Callable[[Tensor], Any]] = None) -> List[BlockAttention]:
    """Run a backbone on one image and keep the attention weights of every block.

    The weights are those of the ``reference`` implementation for the inputs of each
    :class:`~swin_pos_det.layers.WindowAttention`, with any position scheme.

    Args:
        backbone: a :class:`~swin_pos_det.models.SwinPosTransformer`; left in evaluation mode.
        image: (1, in_channels, H, W), normalized.
        forward: called with the image. Default: the backbone.

    Returns:
        One entry for each block that was run, in order.

    Raises:
        SettingError: if ``image`` is not one image.
    """
    if image.dim() != 4 or image.shape[0] != 1:
        raise SettingError(f'attention is recorded of one image, (1, C, H, W), got {tuple(image.shape)}')
    backbone.eval()
    recorded: List[BlockAttention] = []
    handles, strides = [], _strides(backbone)

    def record(stage: int, block: int) -> Callable[..., None]:
        def hook(module: WindowAttention, args: Tuple[Any, ...]) -> None:
            x, plan = args
            recorded.append(BlockAttention(stage, block, module.weights(x, plan).float(), plan, plan.spec.size,
                                           strides[stage]))
        return hook

    for i, stage in enumerate(backbone.stages):
        for j, block in enumerate(stage.blocks):
            handles.append(block.attn.w_msa.register_forward_pre_hook(record(i, j)))
    try:
        with torch.no_grad():
            (forward or backbone)(image)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def _strides(backbone: nn.Module) -> List[Pair]:
    """Return the pixels per token of each stage."""
    strides = [tuple(backbone.patch_embed.projection.stride)]
    for stage in backbone.stages[:-1]:
        step = stage.downsample.sampler.stride
        strides.append((strides[-1][0] * step[0], strides[-1][1] * step[1]))
    return strides


def attention_distance(block: BlockAttention, weights: Optional[Tensor] = None) -> Tensor:
    """Return the mean attention distance of tokens (ViT, appendix D.7 and figure 11).

    It is the mean over queries of the distances to their keys, weighted by attention. Distances are between
    the tokens' places in the image, so the cyclic shift does not count. Padding is left out, as query and as key.

    Args:
        block: of :func:`record_attention`.
        weights: (nW, heads, N, N) instead of the block's.

    Returns:
        (heads,) pixels of the image, float32.
    """
    real = block.real
    weights = (block.weights if weights is None else weights) * real[:, None, None, :]
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    token = block.plan.gather.view(real.shape)
    place = torch.stack([token // block.size[1], token % block.size[1]], -1).float()
    place = place * torch.tensor(block.stride, dtype=torch.float32, device=place.device)
    distance = torch.cdist(place, place)[:, None]
    per_query = (weights * distance).sum(-1) * real[:, None]
    return per_query.sum((0, 2)) / real.sum()


def uniform_distance(block: BlockAttention) -> Tensor:
    """Return the :func:`attention_distance` of uniform attention to all tokens that may be attended to: (1,) pixels."""
    allowed = torch.cat([_allowed(group, block.weights) for group in block.plan.groups])
    return attention_distance(block, allowed / allowed.sum(-1, keepdim=True).clamp(min=1))


def _allowed(group: WindowGroup, like: Tensor) -> Tensor:
    """Return (count, 1, N, N), 1 for each query and key of a group of windows that may meet, else 0."""
    mask = group.mask(like.dtype)
    allowed = like.new_ones(1, 1, *like.shape[-2:]) if mask is None else (mask == 0).to(like.dtype)
    return allowed.expand(group.count, -1, -1, -1)


def attended_from(blocks: Sequence[BlockAttention], token: int, residual: bool = False,
                  head: Optional[int] = None) -> Tensor:
    """Return the attention of a token after some consecutive blocks of a stage to the map before them.

    For one block it is the token's row of attention, averaged over heads. Several blocks are multiplied, which follows
    attention through the shifts from window to window: attention rollout (Abnar and Zuidema, 2020,
    https://arxiv.org/abs/2005.00928, section 3). It ignores values, feed-forward networks and norms.

    Args:
        blocks: consecutive blocks of one stage, in the order in which they are run.
        token: its number in the map, row by row.
        residual: count the residual connection as half of each block, ``(A + I) / 2``, as rollout does.
        head: this head alone. Default: the mean over heads.

    Returns:
        (H, W) shares, float32. They sum to 1, less the share of padding.

    Raises:
        ValueError: without blocks, or if they are not of one stage, or if the map has no such token.
    """
    if not blocks or len({(block.stage, block.size) for block in blocks}) != 1:
        raise SettingError('blocks must be at least one, all of one stage')
    height, width = blocks[0].size
    if not 0 <= token < height * width:
        raise SettingError(f'a map of {height} x {width} tokens has numbers 0 to {height * width - 1}, got {token}')
    seen = torch.zeros(height * width, 1, device=blocks[0].weights.device)
    seen[token] = 1
    for block in reversed(blocks):
        weights = block.weights.mean(1) if head is None else block.weights[:, head]
        shares = window_partition(seen, block.plan).squeeze(-1)  # (nW, N): the weight of each query
        before = window_reverse(torch.einsum('wq,wqk->wk', shares, weights).unsqueeze(-1), block.plan)
        seen = (seen + before) / 2 if residual else before
    return seen.view(height, width)


def visible_from(block: BlockAttention, token: int) -> Tensor:
    """Return (H, W) bool: the tokens that a token may attend to, those of its window and its side of the shift.

    Args:
        block: of :func:`record_attention`.
        token: its number in the map, row by row.
    """
    number = block.weights.shape[-1]
    window, slot = divmod(int(block.plan.inverse[token]), number)
    allowed = torch.cat([_allowed(group, block.weights) for group in block.plan.groups])[window, 0, slot] > 0
    seen = torch.zeros(block.size[0] * block.size[1], dtype=torch.bool, device=allowed.device)
    seen[block.plan.gather.view(-1, number)[window][allowed & block.real[window]]] = True
    return seen.view(block.size)


@dataclass(frozen=True)
class BlockDistance:
    """The attention distances of a block's heads, averaged over images.

    Attributes:
        stage, block: which block, from 0.
        heads: (heads,) the :func:`attention_distance`, pixels.
        uniform: the same for uniform attention, pixels.
    """

    stage: int
    block: int
    heads: Tensor
    uniform: float


def measure_distances(images: Iterable[Sequence[BlockAttention]]) -> List[BlockDistance]:
    """Average attention distances over images, one by one: all of them may be too large to keep.

    Args:
        images: for each image the entries of :func:`record_attention`; at least one image.
    """
    heads: Dict[Pair, List[Tensor]] = {}
    uniform: Dict[Pair, List[float]] = {}
    for blocks in images:
        for block in blocks:
            place = block.stage, block.block
            heads.setdefault(place, []).append(attention_distance(block).cpu())
            uniform.setdefault(place, []).append(float(uniform_distance(block)))
    return [BlockDistance(*place, torch.stack(values).mean(0), float(np.mean(uniform[place])))
            for place, values in heads.items()]
