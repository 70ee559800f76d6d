"""The cost of an image in a training of Mask R-CNN: FLOPs, parameters and activation memory, counted on the model.

:mod:`.scaling_estimate` turns that into time and memory on 1 to many GPUs.
"""
from __future__ import annotations

import importlib.util
from collections import defaultdict
from typing import Any, Dict, List, Tuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...models.swin_blocks import SwinBlock
from ..benchmark.models import VARIANTS as SIZES
from .scaling_estimate import Counts

VARIANTS = {name.lower(): SIZES[name] for name in ('T', 'S', 'B', 'L')}


def mask_rcnn(variant: str, base: str = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py') -> nn.Module:
    """Build Mask R-CNN with a Swin of a size ('t', 's', 'b' or 'l') on the meta device: shapes without data."""
    cfg = Config.fromstring(f"_base_ = '{base}'", '.py').model
    sizes = VARIANTS[variant]
    cfg.backbone.update(type='SwinPosTransformer', init_cfg=None, drop_path_rate=0., **sizes)
    cfg.neck.in_channels = [sizes['embed_dims'] * 2**stage for stage in range(4)]
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg).to('meta').train()


def count(model: nn.Module, image: Tuple[int, int] = (800, 1344)) -> Counts:
    """Run a detector on one image on the meta device, and count.

    Args:
        model: a two-stage detector with boxes and masks, on the meta device.
        image: height and width in pixels, as the batch is padded.
    """
    blocks = [module for module in model.modules() if isinstance(module, SwinBlock)]
    saved, inputs = _track_saved(model, blocks)
    # Older counters distinguish modules only if they get the model, about which newer ones warn.
    tracked = {} if importlib.util.find_spec('torch.utils.module_tracker') else dict(mods=model)
    images = torch.empty(1, 3, *image, device='meta')
    with saved:
        _training_forward(model, images)
    # Separately: the counter hooks all modules, and some of them then keep more tensors.
    with FlopCounterMode(display=False, **tracked) as flops:
        _training_forward(model, images)
    per_module = flops.get_flop_counts()
    block_flops = sum(sum(ops.values()) for name, ops in per_module.items() if name.split('.')[-1].isdigit()
                      and name.split('.')[-2] == 'blocks')
    outside = saved.bytes[None]
    inside = [saved.bytes[block] for block in blocks]
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        largest_block=max(sum(parameter.numel() for parameter in block.parameters()) for block in blocks),
        forward=float(flops.get_total_flops()),
        blocks_forward=float(block_flops),
        activations=float(outside + sum(inside)),
        activations_checkpointed=float(outside + sum(inputs.values()) + max(inside)))


def _training_forward(model: nn.Module, images: torch.Tensor) -> None:
    """Run a training's forward pass without assigning, sampling and RoIAlign, which take almost no FLOPs."""
    features = model.neck(model.backbone(images))
    model.rpn_head(features)
    sampler = model.train_cfg.rcnn.sampler
    channels, heads = features[0].shape[1], model.roi_head
    sides = {name: getattr(heads, f'{name}_roi_extractor').roi_layers[0].output_size for name in ('bbox', 'mask')}
    heads.bbox_head(features[0].new_empty(sampler.num, channels, *sides['bbox'], requires_grad=True))
    heads.mask_head(features[0].new_empty(int(sampler.num * sampler.pos_fraction), channels, *sides['mask'],
                                          requires_grad=True))


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """The bytes that autograd keeps, once per storage, by the running block."""

    def __init__(self, parameters: List[nn.Parameter]) -> None:
        super().__init__(self._pack, lambda kept: kept)
        self.bytes: Dict[Any, int] = defaultdict(int)
        self.running: Any = None
        self._seen = {parameter.untyped_storage()._cdata: parameter for parameter in parameters}

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor  # kept, so that no other gets its address
            self.bytes[self.running] += storage.nbytes()
        return tensor


def _track_saved(model: nn.Module, blocks: List[nn.Module]) -> Tuple[_Saved, Dict[nn.Module, int]]:
    saved, inputs = _Saved(list(model.parameters())), {}

    def enter(block: nn.Module, args: Tuple[Any, ...]) -> None:
        saved.running = block
        inputs[block] = args[0].untyped_storage().nbytes()

    def leave(*_: Any) -> None:
        saved.running = None

    for block in blocks:
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    return saved, inputs
