"""The Swin backbones that can be compared, each built with its library's fastest attention.

All of them compute one function: images (B, 3, H, W) -> for each stage its normalised features
(B, C_i, H_i, W_i), contiguous. Those that end without output norms (timm's, torchvision's) get them here.

The module runs in the environment of the library: it imports only torch before a builder is called.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Tuple, Union

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # another environment has this package alone
    from ...ops.windows import Pair

Window = Union[int, str]

VARIANTS = {
    'T': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'S': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'B': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    'L': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    'nano': dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
}
# The window of the learned tables if the attention window is the whole map.
GLOBAL_TABLE_WINDOW = 7


def build_ours(variant: Mapping[str, Any], window: Window, size: Pair, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build this project's backbone; ``'global'`` gives windows over the whole map, with tables resampled to it."""
    import swin_pos_det
    from swin_pos_det.models import SwinPosTransformer
    assert swin_pos_det.__version__
    table = dict(table_window_size=GLOBAL_TABLE_WINDOW) if window == 'global' else {}
    model = SwinPosTransformer(**variant, window_size=window, drop_path_rate=0., **table)
    model.load_state_dict(weights, strict=True)
    return model


def build_mmdet(variant: Mapping[str, Any], window: Window, size: Pair, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build MMDetection's backbone."""
    from mmdet.models.backbones.swin import SwinTransformer
    model = SwinTransformer(**variant, window_size=window, drop_path_rate=0.)
    model.load_state_dict(weights, strict=True)
    return model


class _WithNorms(nn.Module):
    """A hierarchical backbone with stages that return (B, H, W, C), and an output norm for each."""

    def __init__(self, stem: nn.Module, stages: List[nn.Module], norms: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        for i in range(len(stages)):
            self.add_module(f'norm{i}', nn.LayerNorm(norms[f'norm{i}.weight'].numel()))
        self.load_state_dict(norms, strict=False)

    def forward(self, x: Tensor) -> List[Tensor]:
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
        return outs


def _split_norms(weights: Mapping[str, Tensor]) -> Tuple[Dict[str, Tensor], Dict[str, Tensor]]:
    """Return the weights of the library's own model, and those of the output norms (``norm0.weight``, ...)."""
    norms = {key: value for key, value in weights.items() if key[:4] == 'norm' and key[4].isdigit()}
    return {key: value for key, value in weights.items() if key not in norms}, norms


def build_timm(variant: Mapping[str, Any], window: Window, size: Pair, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build timm's with fused attention for the given size, so that its masks are made once.

    ``always_partition`` keeps the shift on maps no larger than a window, as mmdet does.
    """
    from timm.layers import set_fused_attn
    from timm.models.swin_transformer import SwinTransformer
    set_fused_attn(True, experimental=True)
    own, norms = _split_norms(weights)
    model = SwinTransformer(
        img_size=size, embed_dim=variant['embed_dims'], depths=variant['depths'], num_heads=variant['num_heads'],
        window_size=window, num_classes=0, drop_path_rate=0., always_partition=True)
    model.load_state_dict(own, strict=True)
    assert all(module.fused_attn for module in model.modules() if hasattr(module, 'fused_attn'))
    return _WithNorms(model.patch_embed, list(model.layers), norms)


def build_hugging_face(variant: Mapping[str, Any], window: Window, size: Pair,
                       weights: Mapping[str, Tensor]) -> nn.Module:
    """Build Hugging Face's ``SwinBackbone`` with torch's ``scaled_dot_product_attention``."""
    from transformers import SwinBackbone, SwinConfig
    stages = [f'stage{i + 1}' for i in range(len(variant['depths']))]
    config = SwinConfig(
        image_size=size, embed_dim=variant['embed_dims'], depths=list(variant['depths']),
        num_heads=list(variant['num_heads']), window_size=window, drop_path_rate=0., out_features=stages,
        attn_implementation='sdpa')
    # Not load_state_dict: the names in memory differ from those in files, and from_pretrained translates.
    model = SwinBackbone.from_pretrained(None, config=config, state_dict=dict(weights))
    assert model.config._attn_implementation == 'sdpa'
    return _FeatureMaps(model)


class _FeatureMaps(nn.Module):

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        return self.model(x).feature_maps


def build_torchvision(variant: Mapping[str, Any], window: Window, size: Pair,
                      weights: Mapping[str, Tensor]) -> nn.Module:
    """Build torchvision's, which has one implementation of attention only."""
    from torchvision.models.swin_transformer import SwinTransformer
    own, norms = _split_norms(weights)
    model = SwinTransformer(
        patch_size=[4, 4], embed_dim=variant['embed_dims'], depths=list(variant['depths']),
        num_heads=list(variant['num_heads']), window_size=[window, window], stochastic_depth_prob=0.)
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and all(key.startswith(('norm.', 'head.')) for key in missing), (missing, unexpected)
    parts = list(model.features)  # patch embedding, stage, merging, stage, merging, ...
    stages = [parts[1]] + [nn.Sequential(*parts[i:i + 2]) for i in range(2, len(parts), 2)]
    return _WithNorms(parts[0], stages, norms)


# Name on the command line -> builder, the library that names its weights, and the module it needs.
MODELS: Dict[str, Tuple[Callable[..., nn.Module], str, str]] = {
    'ours': (build_ours, 'mmdet', 'swin_pos_det'),
    'mmdet': (build_mmdet, 'mmdet', 'mmdet'),
    'timm': (build_timm, 'timm', 'timm'),
    'hf': (build_hugging_face, 'hf', 'transformers'),
    'torchvision': (build_torchvision, 'torchvision', 'torchvision'),
}

# 'fast' is this project's detector with configs/_base_/fast_training.py.
LIBRARIES = {'fast': 'swin_pos_det', **{name: library for name, (_, _, library) in MODELS.items()}}


def build_model(name: str, variant: Mapping[str, Any], window: Window, size: Pair, weights: str) -> nn.Module:
    """Build one of ``MODELS``.

    Args:
        name: of the model.
        variant: ``embed_dims``, ``depths``, ``num_heads``.
        window: side in tokens, or for 'ours' ``'global'``.
        size: (h, w) of the images, for those that need it.
        weights: path of a state dict in the library's own names.

    Raises:
        ValueError: if the model has no such window.
    """
    if window == 'global' and name != 'ours':
        raise ValueError('has no windows over the whole map')
    state_dict = torch.load(weights, map_location='cpu', weights_only=True)
    return MODELS[name][0](variant, window, size, state_dict)
