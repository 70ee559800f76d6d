"""SwinPosTransformer: the Swin backbone whose windows are free of the size they were trained with."""
from __future__ import annotations

import warnings
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from mmcv.cnn import build_norm_layer
from mmdet.models.layers import PatchEmbed
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from mmengine.model.weight_init import constant_init, trunc_normal_, trunc_normal_init
from torch import Tensor, nn

from ..checkpoints import adapt_state_dict, load_pretrained
from ..layers import resample_absolute
from ..layers.relative_bias import RESAMPLING_MODES
from .arguments import Pair, WindowSize, check_layout, check_rate, size_pair, windows_per_stage
from .swin_blocks import PatchMerging, SwinStage

Cfg = Dict[str, Any]


@MODELS.register_module()
class SwinPosTransformer(BaseModule):
    """Swin Transformer (https://arxiv.org/abs/2103.14030) with bicubically resampled relative position bias.

    Takes every argument of mmdet 3.3's ``SwinTransformer`` in the same order, with the same defaults and meaning, has
    the same parameters under the same names, and gives the same features. What is new is keyword-only.

    Args:
        pretrain_img_size: image size in pixels, int or (h, w), that fixes the grid of the absolute position
            embedding; without one it has no effect.
        in_channels: channels of the image.
        embed_dims: channels C of the first stage; each stage doubles them. 96 for T and S, 128 for B, 192 for L.
        patch_size: side of a patch in pixels; equals ``strides[0]``.
        window_size: window in tokens: an int, a tuple (h, w), or a list with one of these per stage.
        mlp_ratio: hidden channels of the feed-forward networks over C.
        depths: blocks of each stage. (2, 2, 6, 2) for T, (2, 2, 18, 2) for S, B and L.
        num_heads: heads of each stage. (3, 6, 12, 24) for T and S, (4, 8, 16, 32) for B, (6, 12, 24, 48) for L.
        strides: of the patch embedding and of each patch merging.
        out_indices: the stages whose features are returned. What lies behind the last of them is neither computed
            nor trained.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: factor on ``q k^T``. Default: ``head_dim ** -0.5``.
        patch_norm: norm after the patch embedding and in patch merging.
        drop_rate: dropout after the projections, from 0 to below 1.
        attn_drop_rate: dropout on attention weights, from 0 to below 1.
        drop_path_rate: stochastic depth of the last block, from 0 to below 1, growing linearly from 0.
        use_abs_pos_embed: add a learned absolute position embedding, resampled bicubically to the size at hand.
        act_cfg: activation of the feed-forward networks.
        norm_cfg: norm.
        with_cp: gradient checkpointing: less memory, more time.
        pretrained: deprecated, use ``init_cfg``.
        convert_weights: accepted for mmdet's configs and without effect: the format of a checkpoint is recognised.
        frozen_stages: -1: nothing is frozen; 0: the patch embedding; n: and the first n stages.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a checkpoint of mmdet (backbone or detector) or of
            the Swin authors, for any window; or mmengine's other initialisers.
        table_window_size: the window whose offsets the learned tables hold, in the forms of ``window_size``.
            Default: ``window_size``. Where the two differ, tables are resampled in every forward, with gradients.
        resampling: how tables are resampled: 'bicubic', 'bilinear' or 'nearest'.

    Raises:
        ValueError, TypeError: naming a setting that cannot be, and what could.

    Example:
        >>> backbone = SwinPosTransformer(window_size=12, table_window_size=7)
        >>> [tuple(f.shape) for f in backbone(torch.zeros(1, 3, 250, 333))]
        [(1, 96, 63, 84), (1, 192, 32, 42), (1, 384, 16, 21), (1, 768, 8, 11)]
    """

    def __init__(self,
                 pretrain_img_size: Union[int, Pair] = 224,
                 in_channels: int = 3,
                 embed_dims: int = 96,
                 patch_size: Union[int, Pair] = 4,
                 window_size: WindowSize = 7,
                 mlp_ratio: float = 4,
                 depths: Sequence[int] = (2, 2, 6, 2),
                 num_heads: Sequence[int] = (3, 6, 12, 24),
                 strides: Sequence[Union[int, Pair]] = (4, 2, 2, 2),
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 qkv_bias: bool = True,
                 qk_scale: Optional[float] = None,
                 patch_norm: bool = True,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.1,
                 use_abs_pos_embed: bool = False,
                 act_cfg: Cfg = dict(type='GELU'),
                 norm_cfg: Cfg = dict(type='LN'),
                 with_cp: bool = False,
                 pretrained: Optional[str] = None,
                 convert_weights: bool = False,
                 frozen_stages: int = -1,
                 init_cfg: Optional[Union[Cfg, List[Cfg]]] = None,
                 *,
                 table_window_size: Optional[WindowSize] = None,
                 resampling: str = 'bicubic') -> None:
        check_layout(embed_dims, depths, num_heads, strides, out_indices, frozen_stages)
        for name, rate in (('drop_rate', drop_rate), ('attn_drop_rate', attn_drop_rate),
                           ('drop_path_rate', drop_path_rate)):
            check_rate(name, rate)
        if size_pair('patch_size', patch_size) != size_pair('strides[0]', strides[0]):
            raise ValueError(f'patches do not overlap in Swin: strides[0] must equal patch_size={patch_size!r}, '
                             f'got {strides[0]!r}')
        if resampling not in RESAMPLING_MODES:
            raise ValueError(f'resampling must be one of {RESAMPLING_MODES}, got {resampling!r}')
        super().__init__(init_cfg=_resolve_init_cfg(init_cfg, pretrained))
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.use_abs_pos_embed = use_abs_pos_embed
        self.num_features = [embed_dims * 2**i for i in range(len(depths))]

        self.patch_embed = PatchEmbed(
            in_channels=in_channels,
            embed_dims=embed_dims,
            conv_type='Conv2d',
            kernel_size=patch_size,
            stride=strides[0],
            norm_cfg=norm_cfg if patch_norm else None)
        self._add_absolute_position(pretrain_img_size, patch_size)
        self.drop_after_pos = nn.Dropout(p=drop_rate)

        windows = windows_per_stage('window_size', window_size, len(depths))
        tables = windows if table_window_size is None else windows_per_stage(
            'table_window_size', table_window_size, len(depths))
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.stages = ModuleList()
        for i, dims in enumerate(self.num_features):
            is_last = i == len(depths) - 1
            downsample = None if is_last else PatchMerging(
                dims, 2 * dims, stride=strides[i + 1], norm_cfg=norm_cfg if patch_norm else None)
            self.stages.append(
                SwinStage(
                    depth=depths[i],
                    drop_path_rates=rates[sum(depths[:i]):sum(depths[:i + 1])],
                    downsample=downsample,
                    embed_dims=dims,
                    num_heads=num_heads[i],
                    feedforward_channels=int(mlp_ratio * dims),
                    window_size=windows[i],
                    table_window_size=tables[i],
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
                    resampling=resampling))
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg, self.num_features[i])[1])
        self._freeze_unused()
        self._freeze_stages()

    def _add_absolute_position(self, pretrain_img_size: Union[int, Pair], patch_size: Union[int, Pair]) -> None:
        image = size_pair('pretrain_img_size', tuple(pretrain_img_size) * 2 if _is_single(pretrain_img_size)
                          else pretrain_img_size)
        if not self.use_abs_pos_embed:
            if image != (224, 224):
                warnings.warn(f'pretrain_img_size={pretrain_img_size!r} has no effect without use_abs_pos_embed=True',
                              stacklevel=3)
            return
        patch = size_pair('patch_size', patch_size)
        self.absolute_grid = image[0] // patch[0], image[1] // patch[1]
        if min(self.absolute_grid) < 1:
            raise ValueError(f'pretrain_img_size={pretrain_img_size!r} is smaller than a patch of {patch_size!r}')
        self.absolute_pos_embed = nn.Parameter(
            torch.zeros(1, self.absolute_grid[0] * self.absolute_grid[1], self.num_features[0]))

    def train(self, mode: bool = True) -> SwinPosTransformer:
        """Set training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.drop_after_pos, *self.stages[:self.frozen_stages]]
        frozen += [getattr(self, f'norm{i}') for i in self.out_indices if i < self.frozen_stages]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)

    def _freeze_unused(self) -> None:
        # DDP waits for a gradient of every parameter that asks for one.
        last = max(self.out_indices)
        for module in (self.stages[last].downsample, *self.stages[last + 1:]):
            if module is not None:
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the pretrained weights that ``init_cfg`` names, or draw new ones as the Swin authors do.

        Raises:
            CheckpointError, ValueError: if the checkpoint cannot be read or does not fit.
        """
        if not self.init_cfg:
            print_log(f'No pretrained weights for {type(self).__name__}: training starts from scratch',
                      logger='current')
            self._draw_weights()
            self._is_init = True
        elif isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            load_pretrained(self, self.init_cfg['checkpoint'], prefix=self.init_cfg.get('prefix'))
            self._is_init = True
        else:
            super().init_weights()

    def _draw_weights(self) -> None:
        # mmdet leaves the tables at zero here; the Swin authors draw them too (std 0.02).
        for name, parameter in self.named_parameters():
            if name.endswith(('relative_position_bias_table', 'absolute_pos_embed')):
                trunc_normal_(parameter, std=.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=.02, bias=0.)
            elif isinstance(module, nn.LayerNorm):
                constant_init(module, 1.0)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        adapt_state_dict(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, x: Tensor) -> List[Tensor]:
        """Compute the feature maps of a batch of images.

        Args:
            x: (B, in_channels, H, W) of any height and width from 1.

        Returns:
            For each stage i of ``out_indices`` its normalised features: (B, C * 2 ** i, H_i, W_i), contiguous, with
            ``H_0 = ceil(H / patch)`` and ``H_i = ceil(H_(i-1) / 2)``.

        Raises:
            ValueError: if ``x`` is not such a batch.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape:
            raise ValueError(f'expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}')
        x, hw_shape = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + resample_absolute(self.absolute_pos_embed, self.absolute_grid, hw_shape)
        x = self.drop_after_pos(x)

        outs = []
        for i, stage in enumerate(self.stages[:max(self.out_indices) + 1]):
            if i > 0:
                x, hw_shape = self.stages[i - 1].downsample(x, hw_shape)
            x = stage(x, hw_shape)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.unflatten(1, hw_shape).permute(0, 3, 1, 2).contiguous())
        return outs


def _is_single(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 1


def _resolve_init_cfg(init_cfg: Any, pretrained: Optional[str]) -> Any:
    if pretrained is None:
        return init_cfg
    if not isinstance(pretrained, str):
        raise TypeError(f'pretrained must be a path or URL, got {pretrained!r}')
    if init_cfg:
        raise ValueError(f'give init_cfg or pretrained, not both: got {init_cfg!r} and {pretrained!r}')
    warnings.warn('pretrained is deprecated, write init_cfg=dict(type="Pretrained", checkpoint=...)', stacklevel=3)
    return dict(type='Pretrained', checkpoint=pretrained)
