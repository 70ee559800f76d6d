"""SwinPosTransformer: a Swin backbone that runs at any window size."""
from __future__ import annotations

import warnings
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints import LoadsAnySwin, describe_model, load_pretrained, note_table_windows
from ..errors import SettingError
from ..layers import ATTENTIONS, RESAMPLING_MODES, PositionSetting, build_position, image_scale, resample_absolute
from ..ops import cpu_inference
from ..ops.runtime import warn
from ..ops.windows import Pair
from .arguments import (
    PADDINGS,
    WindowSize,
    check_choices,
    check_layout,
    check_positive,
    check_rates,
    image_size,
    size_pair,
    table_windows,
    warn_without_effect,
    window_rules,
)
from .data_preprocessor import valid_sizes
from .initial_weights import is_pretrained, reset_parameters, resolve_init_cfg
from .padding import downsample_sizes, mask_padding
from .patches import PatchEmbed, PatchMerging
from .swin_blocks import NORM_ORDERS, SwinStage

Cfg = Dict[str, Any]


@MODELS.register_module()
class SwinPosTransformer(LoadsAnySwin, BaseModule):
    """Swin Transformer (https://arxiv.org/abs/2103.14030) with bicubically resampled relative position bias.

    The arguments of mmdet 3.3's ``SwinTransformer`` come first, in its order and with its defaults. They mean what they
    mean there, and some accept more (``window_size``); only ``convert_weights`` has no effect. The parameters have its
    names, and the features are equal. New arguments are keyword-only.

    Args:
        pretrain_img_size: image size in pixels, int or (h, w), that fixes the grid of the absolute position embedding
            (``use_abs_pos_embed`` or ``position='absolute'``); without one it has no effect.
        in_channels: channels of the image.
        embed_dims: channels C of the first stage; each stage doubles them. 96 for T and S, 128 for B, 192 for L.
        patch_size: side of a patch in pixels; equals ``strides[0]``.
        window_size: nominal window in tokens: an int, a tuple (h, w), ``'global'`` for one window over the whole map,
            or a list with one of these per stage. It can be changed at run time, see :meth:`set_window_size`.
        mlp_ratio: hidden channels of the feed-forward networks over the stage's channels.
        depths: blocks of each stage. (2, 2, 6, 2) for T, (2, 2, 18, 2) for S, B and L.
        num_heads: heads of each stage. (3, 6, 12, 24) for T and S, (4, 8, 16, 32) for B, (6, 12, 24, 48) for L.
        strides: of the patch embedding and of each patch merging, one per stage.
        out_indices: the stages to return features of. Stages after the last of them are neither computed nor trained.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: factor on ``q k^T``. Default: ``head_dim ** -0.5``. No effect with 'relative_only', an error with
            ``attention='cosine'``.
        patch_norm: norm after the patch embedding and in patch merging.
        drop_rate: dropout before the first stage (after the absolute position embedding, if there is one), after
            attention's output projection, and within and after the feed-forward networks, from 0 to below 1.
        attn_drop_rate: dropout on attention weights, from 0 to below 1.
        drop_path_rate: stochastic depth of the last block, from 0 to below 1, growing linearly from 0.
        use_abs_pos_embed: add a learned absolute position embedding, resampled bicubically to the size of the map.
        act_cfg: activation of the feed-forward networks.
        norm_cfg: norm.
        with_cp: gradient checkpointing: less memory, more time.
        pretrained: deprecated, use ``init_cfg``.
        convert_weights: accepted for mmdet's configs, without effect: the format of a checkpoint is detected.
        frozen_stages: -1: nothing is frozen; 0: the patch embedding and the absolute position embedding; n: also the
            first n stages and their output norms. What is frozen has no gradients and stays in evaluation mode.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` with a checkpoint of mmdet (backbone or detector) or of
            the Swin authors, for any window; or mmengine's other initialisers.
        table_window_size: the window whose offsets the learned tables hold, in the forms of ``window_size``.
            Default: ``window_size``; required where that is 'global' and the scheme has tables. Where the window in
            use differs, tables are resampled in every forward, with gradients.
        resampling: how tables are resampled: 'bicubic', 'bilinear', 'nearest' or 'geometric'; see
            :func:`~swin_pos_det.layers.resample_table`.
        window_policy: how windows adapt to the map: 'fixed' (as mmdet), 'fit' (least padding) or 'scale' (with the
            image's resolution); see :class:`~swin_pos_det.layers.WindowRule`.
        reference_size: for 'scale', the image size in pixels, int, (h, w) or (w, h), at which windows have
            their nominal size: usually the ``scale`` of the training's ``Resize``.
        padding: 'attend': tokens attend to padding, as in mmdet. 'mask': padding is hidden, both that which completes
            windows and that which completes the batch; for the latter the model needs
            ``data_preprocessor=dict(type='SwinPosDataPreprocessor', ...)``, with mmpretrain
            ``'mmdet.SwinPosClsDataPreprocessor'``, with mmseg ``'mmdet.SwinPosSegDataPreProcessor'``. Under the policy
            'fixed', with windows other than 'global', an image's features are then the same alone and in any batch;
            they are zero outside it.
        position: the position scheme: the name of a scheme, ``dict(type=name, ...)`` with settings,
            or several joined by '+'. 'none', 'absolute', 'relative' (the default, with ``use_abs_pos_embed`` the same
            as 'absolute+relative'), 'relative_only' (attention by the bias alone), 'linear_cpb', 'log_cpb',
            'rope_axial', 'rope_mixed', 'peg', or a scheme registered with
            :func:`~swin_pos_det.layers.register_position`; docs/position.md explains them.
        attention: 'dot', or 'cosine' as in Swin V2, see :class:`~swin_pos_det.layers.WindowAttention`.
        key_bias: with ``qkv_bias``, whether keys have one; in Swin V2 they have none.
        norm_order: 'pre': norms before attention, feed-forward and the reduction of patch merging; 'res-post': after
            them, as in Swin V2.
        pretrained_window_sizes: Swin V2's name of ``table_window_size``, in the same forms; a 0 stands for the
            stage's own window.

    Raises:
        SettingError, SettingTypeError: if a setting is invalid; the message says what is valid.

    Examples:
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
                 resampling: str = 'bicubic',
                 window_policy: str = 'fixed',
                 reference_size: Optional[Union[int, Pair]] = None,
                 padding: str = 'attend',
                 position: PositionSetting = 'relative',
                 attention: str = 'dot',
                 key_bias: bool = True,
                 norm_order: str = 'pre',
                 pretrained_window_sizes: Optional[WindowSize] = None) -> None:
        check_positive(in_channels=in_channels, embed_dims=embed_dims, mlp_ratio=mlp_ratio,
                       qk_scale=1. if qk_scale is None else qk_scale)
        check_layout(embed_dims, depths, num_heads, patch_size, strides, out_indices, frozen_stages)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_choices(resampling=(resampling, RESAMPLING_MODES), padding=(padding, PADDINGS),
                      attention=(attention, ATTENTIONS), norm_order=(norm_order, NORM_ORDERS))
        super().__init__(init_cfg=resolve_init_cfg(init_cfg, pretrained))
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.position = build_position(position)
        self.use_abs_pos_embed = use_abs_pos_embed or self.position.absolute
        self.num_features = [embed_dims * 2**i for i in range(len(depths))]

        patch_norm_cfg = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(in_channels, embed_dims, kernel_size=patch_size, stride=strides[0],
                                      norm_cfg=patch_norm_cfg)
        self._add_absolute_position(pretrain_img_size, patch_size)
        self.drop_after_pos = nn.Dropout(p=drop_rate)

        self.resampling = resampling
        self.padding = padding
        self._warned = False  # that the batch has no image sizes, see _valid_sizes
        self.reference_size = None if reference_size is None else size_pair('reference_size', reference_size)
        rules = window_rules(window_size, window_policy, len(depths), self.reference_size)
        tables = table_windows(table_window_size, rules, pretrained_window_sizes, self.position)
        warn_without_effect(self.position, table_window_size=table_window_size, resampling=resampling,
                            pretrained_window_sizes=pretrained_window_sizes, qk_scale=qk_scale)
        # On the CPU, since a model may be built under torch.device('meta'), where tensors hold no numbers.
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(list(depths))
        block = dict(qkv_bias=qkv_bias, qk_scale=qk_scale, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate,
                     act_cfg=act_cfg, norm_cfg=norm_cfg, with_cp=with_cp, resampling=resampling, attention=attention,
                     key_bias=key_bias, norm_order=norm_order)
        self.stages = ModuleList()
        for i, dims in enumerate(self.num_features):
            downsample = None if i + 1 == len(depths) else PatchMerging(
                dims, 2 * dims, stride=strides[i + 1], norm_cfg=patch_norm_cfg, norm_order=norm_order)
            self.stages.append(SwinStage(
                dims, rates[i].tolist(), rules[i], downsample, hide_padding=padding == 'mask', position=self.position,
                num_heads=num_heads[i], feedforward_channels=int(mlp_ratio * dims), table_window_size=tables[i],
                **block))
        for i in self.out_indices:
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg, self.num_features[i])[1])
        # A table's shape does not show its window: (7, 14) and (14, 7) have as many rows. So state dicts carry it as
        # metadata. The variant is what a checkpoint is compared with.
        self.variant = describe_model(self)
        self._register_state_dict_hook(note_table_windows)
        self._freeze_unused()
        self._freeze_stages()

    @cpu_inference.not_compiled  # large images on a CPU: eager inference is faster than a compiled graph
    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the feature maps of a batch of images.

        Args:
            x: (B, in_channels, H, W) of any height and width from 1.

        Returns:
            For each stage i of ``out_indices`` its normalized features: (B, C * 2 ** i, H_i, W_i), contiguous, with
            ``H_0 = ceil(H / strides[0])`` and ``H_i = ceil(H_(i-1) / strides[i])``. A tuple, which mmpretrain's necks
            need; mmdet's Swin returns a list.

        Raises:
            ValueError: if ``x`` is not such a batch.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape:
            raise SettingError(f'expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}')
        scale = 1. if self.reference_size is None else image_scale(x.shape[-2:], self.reference_size)
        valid = self._valid_sizes(x)  # (h, w) of each image without its padding, in pixels, then in tokens
        x, hw_shape = self.patch_embed(mask_padding(x, valid))
        valid = downsample_sizes(valid, self.patch_embed.projection.stride)
        if self.use_abs_pos_embed:
            x = x + self._absolute_position(hw_shape, valid)
        x = self.drop_after_pos(x)

        outs = []
        # Not self.stages[:last + 1]: slicing a ModuleList registers the stages in a new module, in each forward.
        for i, stage in zip(range(max(self.out_indices) + 1), self.stages):
            if i > 0:
                # Before a stage, where mmdet merges after it: the merging behind the last stage is never computed.
                downsample = self.stages[i - 1].downsample
                x, hw_shape = downsample(mask_padding(x, valid, hw_shape), hw_shape)
                valid = downsample_sizes(valid, downsample.sampler.stride)
            x = stage(x, hw_shape, scale, valid)
            if i in self.out_indices:
                out = mask_padding(getattr(self, f'norm{i}')(x), valid, hw_shape)
                outs.append(out.unflatten(1, hw_shape).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def _valid_sizes(self, images: Tensor) -> Optional[List[Pair]]:
        """Return the size of each image in pixels, if the batch has padding that must be hidden."""
        if self.padding != 'mask':
            return None
        sizes = valid_sizes(images)
        if sizes is None and not self._warned:
            self._warned = warn(
                "padding='mask' hides the padding of a batch only if it knows each image's size: set "
                "data_preprocessor=dict(type='mmdet.SwinPosDataPreprocessor', ...), with mmpretrain "
                "'mmdet.SwinPosClsDataPreprocessor', with mmseg 'mmdet.SwinPosSegDataPreProcessor'. If it is set, "
                "something after it made a new tensor of the images, such as .half(), channels_last or mmseg's "
                'sliding windows')
        canvas = tuple(images.shape[-2:])
        return None if sizes is None or all(size == canvas for size in sizes) else sizes

    def _absolute_position(self, hw_shape: Pair, valid: Optional[List[Pair]]) -> Tensor:
        """Return (1 or B, H * W, C): the embedding resampled to the map, or to each image's own part of it."""
        if valid is None:
            return resample_absolute(self.absolute_pos_embed, self.absolute_grid, hw_shape)
        maps = []
        for own in valid:
            tokens = resample_absolute(self.absolute_pos_embed, self.absolute_grid, own).unflatten(1, own)
            maps.append(F.pad(tokens, (0, 0, 0, hw_shape[1] - own[1], 0, hw_shape[0] - own[0])))
        return torch.cat(maps).flatten(1, 2)

    @property
    def window_size(self) -> List[Union[Pair, str]]:
        """Return the nominal window of each stage, (h, w) in tokens or ``'global'``."""
        return [stage.window_rule.size for stage in self.stages]

    def set_window_size(self, window_size: WindowSize, window_policy: Optional[str] = None) -> None:
        """Change the windows, from the next forward on.

        No parameter is made, replaced or changed: learned tables keep their own grid and are resampled in the
        forward. So an optimizer, EMA or DDP wrapper stays valid, and going back is exact.

        Args:
            window_size: in the forms of the constructor's.
            window_policy: default: unchanged.

        Raises:
            SettingError, SettingTypeError: if the setting is invalid; nothing is changed then.
        """
        policy = self.stages[0].window_rule.policy if window_policy is None else window_policy
        rules = window_rules(window_size, policy, len(self.stages), self.reference_size)
        for stage, rule in zip(self.stages, rules):
            stage.window_rule = rule

    def _add_absolute_position(self, pretrain_img_size: Union[int, Pair], patch_size: Union[int, Pair]) -> None:
        image = image_size(pretrain_img_size)
        if not self.use_abs_pos_embed:
            if image != (224, 224):
                warnings.warn(f'pretrain_img_size={pretrain_img_size!r} has no effect without an absolute position '
                              "embedding: use_abs_pos_embed=True or position='absolute'", stacklevel=3)
            return
        patch = size_pair('patch_size', patch_size)
        self.absolute_grid = image[0] // patch[0], image[1] // patch[1]
        if min(self.absolute_grid) < 1:
            raise SettingError(f'pretrain_img_size={pretrain_img_size!r} is smaller than a patch of {patch_size!r}')
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
        # DDP waits for a gradient of every parameter that requires one.
        last = max(self.out_indices)
        for module in (self.stages[last].downsample, *self.stages[last + 1:]):
            if module is not None:
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the pretrained weights that ``init_cfg`` names, or draw new ones as the Swin authors do.

        Raises:
            CheckpointError, ValueError: if the checkpoint is unreadable or does not fit.
        """
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg] * bool(self.init_cfg)
        pretrained = [cfg for cfg in cfgs if is_pretrained(cfg)]
        if not pretrained:
            print_log(f'No pretrained weights for {type(self).__name__}: training starts from scratch',
                      logger='current')
            reset_parameters(self)
        if len(cfgs) > len(pretrained):
            self.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
            try:
                super().init_weights()
            finally:
                self.init_cfg = cfgs
        for cfg in pretrained:
            load_pretrained(self, cfg['checkpoint'], prefix=cfg.get('prefix'))
        self._is_init = True  # as MMEngine's method notes it
