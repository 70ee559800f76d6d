"""Layer-wise learning-rate decay for Swin: early layers, which pretraining fits best, learn more slowly."""
from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, List, Sequence

from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..errors import SettingError
from ..layers import without_weight_decay

DECAY_TYPES = ('layer_wise', 'stage_wise')
_KEYS = ('decay_rate', 'decay_type')


def layer_of(name: str, depths: Sequence[int], decay_type: str = 'layer_wise') -> int:
    """Return the layer that a detector's parameter belongs to.

    Args:
        name: such as ``'backbone.stages.0.blocks.1.norm1.weight'``.
        depths: blocks of each stage.
        decay_type: 'layer_wise': each block is a layer; 'stage_wise': each stage is.

    Returns:
        0 for the patch embedding and the absolute position embedding; counted from 1, the layer of a block; patch
        merging and the norm of an output are in the last layer of their stage. For all other parameters, one more than
        the last.
    """
    ends = [sum(depths[:stage + 1]) for stage in range(len(depths))]
    if decay_type == 'stage_wise':
        ends = list(range(1, len(depths) + 1))
    if re.match(r'backbone\.(patch_embed\.|absolute_pos_embed$)', name):
        return 0
    block = re.match(r'backbone\.stages\.(\d+)\.blocks\.(\d+)\.', name)
    if block:
        stage = int(block[1])
        return ends[stage] if decay_type == 'stage_wise' else sum(depths[:stage]) + int(block[2]) + 1
    after = re.match(r'backbone\.(?:stages\.|norm)(\d+)\.', name)
    return ends[int(after[1])] if after else ends[-1] + 1


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SwinLayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give each layer of a Swin backbone its own learning rate (BEiT, https://arxiv.org/abs/2106.08254, section 3.1).

    A parameter of layer ``l`` out of ``L`` (see :func:`layer_of`) learns with ``lr * decay_rate ** (L - l)``; neck and
    heads, layer ``L``, learn with ``lr``. Norms, biases, the scale of cosine attention and the parameters of position
    schemes (:func:`~swin_pos_det.layers.without_weight_decay`) have no weight decay. Works for mmdet's
    ``SwinTransformer`` too. mmdet's own constructor supports ConvNeXt only.

    ``paramwise_cfg`` takes ``decay_rate`` (above 0, at most 1) and ``decay_type`` ('layer_wise', the default, or
    'stage_wise'); the number of layers is the model's.

    Raises:
        ValueError: for other settings, or another backbone.

    Examples:
        >>> optim_wrapper = dict(
        ...     constructor='SwinLayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_rate=0.8))
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Dict[str, Any]) -> None:
        settings = dict(paramwise_cfg or {})
        unknown = sorted(set(settings) - set(_KEYS))
        if unknown:
            raise SettingError(f'paramwise_cfg of {type(self).__name__} takes {" and ".join(_KEYS)}, got {unknown}')
        self.decay_rate = settings.get('decay_rate')
        self.decay_type = settings.get('decay_type', 'layer_wise')
        if not isinstance(self.decay_rate, (int, float)) or not 0 < self.decay_rate <= 1:
            raise SettingError(f'decay_rate must be above 0 and at most 1, such as 0.8, got {self.decay_rate!r}')
        if self.decay_type not in DECAY_TYPES:
            raise SettingError(f'decay_type must be one of {DECAY_TYPES}, got {self.decay_type!r}')
        super().__init__(optim_wrapper_cfg, {})
        self.paramwise_cfg = settings  # not empty, or the base class would not ask for groups

    def add_params(self, params: List[Dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Append the groups of ``module``, a detector, to ``params``."""
        backbone = getattr(module, 'backbone', None)
        stages = getattr(backbone, 'stages', None)
        if stages is None or not all(hasattr(stage, 'blocks') for stage in stages):
            raise SettingError(f'{type(self).__name__} needs a Swin as the backbone, got {type(backbone).__name__}')
        depths = [len(stage.blocks) for stage in stages]
        last = layer_of('', depths, self.decay_type)
        spared = set(without_weight_decay())
        groups: Dict[str, Dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            decayed = parameter.dim() > 1 and spared.isdisjoint(name.split('.'))
            layer = layer_of(name, depths, self.decay_type)
            scale = self.decay_rate**(last - layer)
            group = groups.setdefault(f'layer_{layer}_{"decay" if decayed else "no_decay"}', dict(
                params=[], param_names=[], lr_scale=scale, lr=scale * self.base_lr,
                weight_decay=(self.base_wd or 0.) if decayed else 0.))
            group['params'].append(parameter)
            group['param_names'].append(name)
        params.extend(dict(group, group_name=name) for name, group in groups.items())
        counts = Counter({group['lr']: 0 for group in groups.values()})
        for group in groups.values():
            counts[group['lr']] += len(group['params'])
        told = ', '.join(f'{rate:.2e} ({count} parameters)' for rate, count in sorted(counts.items()))
        print_log(f'{type(self).__name__}: learning rates {told}', logger='current')
