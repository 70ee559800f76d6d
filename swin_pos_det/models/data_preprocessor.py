"""Images of any number of channels, and their sizes before padding, on the way to the backbone of any model."""
from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..errors import MissingPackageError, SettingError
from ..ops.windows import Pair

# A model passes its backbone the batch as one tensor and nothing else, so the sizes travel as its attribute.
_ATTRIBUTE = 'swin_pos_valid_sizes'


def attach_valid_sizes(images: Tensor, sizes: Sequence[Pair]) -> None:
    """Attach to a batch the size of each image before padding.

    Args:
        images: (B, C, H, W), images at the top left, padded at the bottom and right.
        sizes: (h, w) in pixels of each image.

    Raises:
        ValueError: if there are not B sizes, or one does not lie within the batch.
    """
    # int() would make a constant of a side that is a symbol, as it is while a graph for any size is made.
    sizes = [tuple(side if isinstance(side, torch.SymInt) else int(side) for side in size) for size in sizes]
    canvas = tuple(images.shape[-2:])
    if len(sizes) != images.shape[0] or not all(1 <= h <= canvas[0] and 1 <= w <= canvas[1] for h, w in sizes):
        raise SettingError(f'valid sizes {sizes} do not fit a batch of shape {tuple(images.shape)}')
    setattr(images, _ATTRIBUTE, sizes)


def valid_sizes(images: Tensor) -> Optional[List[Pair]]:
    """Return the sizes noted by :func:`attach_valid_sizes`, or None."""
    return getattr(images, _ATTRIBUTE, None)


@MODELS.register_module()
class SwinPosDataPreprocessor(DetDataPreprocessor):
    """mmdet's data preprocessor for images of any number of channels that also passes their sizes to the backbone.

    ``SwinPosTransformer(padding='mask')`` uses the size that each image had before it was padded to hide the batch
    padding. Takes the arguments of ``DetDataPreprocessor``, with these differences:

    Args:
        mean: one value, or one for each channel (mmdet: 1 or 3), after the change of order.
        std: likewise.
        bgr_to_rgb: swap the first and third channel. Further channels stay where they are (mmdet drops them), unless
            ``mean`` has three values: then they are dropped, as an alpha channel is. Images of one or two channels
            stay as they are (mmdet fails).
        rgb_to_bgr: likewise.
    """

    def __init__(self, mean: Optional[Sequence[float]] = None, std: Optional[Sequence[float]] = None, *args: Any,
                 **kwargs: Any) -> None:
        if mean is not None and std is not None and len(mean) != len(std):
            raise SettingError(f'mean and std must have the same number of values, got {len(mean)} and {len(std)}')
        one = slice(None) if mean is None or len(mean) in (1, 3) else slice(1)  # mmengine allows 1 or 3
        super().__init__(mean and mean[one], std and std[one], *args, **kwargs)
        if mean is not None and std is not None:
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)
        # The base class would drop all channels but three.
        self._swaps, self._channel_conversion = self._channel_conversion, False

    def forward(self, data: Dict[str, Any], training: bool = False) -> Dict[str, Any]:
        """Normalise, pad and batch as ``DetDataPreprocessor`` does.

        Args:
            data: from the data loader: ``'inputs'`` and, in most cases, ``'data_samples'``.
            training: apply batch augmentations.

        Returns:
            The same keys; valid sizes are attached to ``'inputs'``.
        """
        if self._swaps:
            data = self.cast_data(data)
            inputs = data['inputs']
            data['inputs'] = self._swap(inputs) if isinstance(inputs, Tensor) else [self._swap(each) for each in inputs]
        data = super().forward(data, training)
        samples = data.get('data_samples')
        # Batch augmentations resize the samples' img_shape together with the images.
        if samples is not None and isinstance(data['inputs'], Tensor):
            attach_valid_sizes(data['inputs'], [sample.img_shape[:2] for sample in samples])
        return data

    def kept_channels(self, channels: int) -> int:
        """Return the number of an image's channels that reach the model."""
        drops = self._swaps and self._enable_normalize and self.mean.shape[0] == 3
        return min(channels, 3) if drops else channels

    def _swap(self, images: Tensor) -> Tensor:
        """Swap the first and third channel of images (..., C, H, W)."""
        channels = images.shape[-3]
        if channels < 3:
            return images
        return images[..., [2, 1, 0, *range(3, self.kept_channels(channels))], :, :]


class _PassesSizes:
    """Attach to a batch the size of each of its images, before the next class in line pads them."""

    def forward(self, data: Dict[str, Any], training: bool = False) -> Dict[str, Any]:
        sizes = [tuple(image.shape[-2:]) for image in data['inputs']]
        data = super().forward(data, training)
        if training and getattr(self, 'batch_augments', None) is not None and len(set(sizes)) > 1:
            raise SettingError(f'{type(self).__name__} cannot hide the padding of images that batch augments mix: the '
                               f'images of a batch have sizes {sorted(set(sizes))}. Let the training pipeline give '
                               'them one size, or remove batch_augments (model.train_cfg.augments)')
        attach_valid_sizes(data['inputs'], sizes)
        return data


@cache
def _passing_sizes(library: str, name: str, extra: str) -> type:
    """Derive from a library's data preprocessor one that passes the images' sizes; the library is imported now."""
    try:
        theirs = getattr(import_module(f'{library}.models'), name)
    except ModuleNotFoundError as error:
        # mmseg may lack ftfy or regex, which it imports but does not require
        raise MissingPackageError(f"data_preprocessor type='SwinPos{name}' needs {error.name or library}: "
                                  f"pip install 'swin-pos-det[{extra}]'") from error
    return type(f'SwinPos{name}', (_PassesSizes, theirs), {'__module__': __name__})


# Registered as functions, since their classes derive from libraries that may not be installed.
@MODELS.register_module(name='SwinPosClsDataPreprocessor')
def build_cls_data_preprocessor(**settings: Any) -> nn.Module:
    """Build mmpretrain's ``ClsDataPreprocessor`` that also passes the images' sizes, for ``padding='mask'``.

    Args:
        **settings: the arguments of ``ClsDataPreprocessor``.

    Raises:
        MissingPackageError: if mmpretrain is not installed.
        SettingError: in training, if batch augments mix images of different sizes.
    """
    return _passing_sizes('mmpretrain', 'ClsDataPreprocessor', 'classification')(**settings)


@MODELS.register_module(name='SwinPosSegDataPreProcessor')
def build_seg_data_preprocessor(**settings: Any) -> nn.Module:
    """Build mmsegmentation's ``SegDataPreProcessor`` that also passes the images' sizes, for ``padding='mask'``.

    Args:
        **settings: the arguments of ``SegDataPreProcessor``.

    Raises:
        MissingPackageError: if mmsegmentation is not installed.
    """
    return _passing_sizes('mmseg', 'SegDataPreProcessor', 'segmentation')(**settings)


def input_channels(model: nn.Module) -> Optional[int]:
    """Return the number of channels of a detector's images, or None if its backbone does not define it."""
    backbone = getattr(model, 'backbone', None)
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None) if (
        isinstance(backbone, nn.Module)) else None
    return None if first is None else first.in_channels


def kept_channels(model: nn.Module) -> Callable[[int], int]:
    """Return a function from the channels of an image to those that a detector's data preprocessor passes on."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    if isinstance(preprocessor, SwinPosDataPreprocessor):
        return preprocessor.kept_channels
    swaps = getattr(preprocessor, '_channel_conversion', False)
    return lambda channels: 3 if swaps and channels > 3 else channels


def check_channels(model: nn.Module) -> None:
    """Check that a detector's data preprocessor and backbone agree on the number of channels.

    Raises:
        SettingError: if the backbone would get another number, or one mean for three channels is given to others.
    """
    preprocessor, channels = getattr(model, 'data_preprocessor', None), input_channels(model)
    if channels is None or not isinstance(preprocessor, DetDataPreprocessor):
        return
    swaps = preprocessor._channel_conversion  # always False for SwinPosDataPreprocessor
    if swaps and channels != 3:
        raise SettingError(
            f'model.backbone.in_channels is {channels}, but bgr_to_rgb or rgb_to_bgr of model.data_preprocessor '
            f"({type(preprocessor).__name__}) works on 3 channels: set it to False, or use type="
            "'SwinPosDataPreprocessor', which swaps the first and third channel and keeps the others")
    means = preprocessor.mean.shape[0] if preprocessor._enable_normalize else 1
    if means not in (1, channels):
        more = "" if channels == 1 or isinstance(preprocessor, SwinPosDataPreprocessor) else (
            " (more than 3 need type='SwinPosDataPreprocessor')")
        raise SettingError(f'model.data_preprocessor.mean has {means} values, but model.backbone.in_channels is '
                           f'{channels}: give mean and std 1 or {channels} values{more}')
