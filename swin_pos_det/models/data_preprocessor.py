"""Carrying each image's valid size from the data preprocessor to the backbone, through any detector."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import Tensor

from ..errors import SettingError

Pair = Tuple[int, int]

# A detector hands the batch to its backbone as one tensor and nothing else, so the sizes travel as its attribute.
_ATTRIBUTE = 'swin_pos_valid_sizes'


def attach_valid_sizes(images: Tensor, sizes: Sequence[Pair]) -> None:
    """Note on a batch how large each of its images was before padding.

    Args:
        images: (B, C, H, W), images at the top left, padded at the bottom and right.
        sizes: (h, w) in pixels of each image.

    Raises:
        ValueError: if there are not B sizes, or one does not lie within the batch.
    """
    sizes = [(int(h), int(w)) for h, w in sizes]
    canvas = tuple(images.shape[-2:])
    if len(sizes) != images.shape[0] or not all(1 <= h <= canvas[0] and 1 <= w <= canvas[1] for h, w in sizes):
        raise SettingError(f'valid sizes {sizes} do not fit a batch of shape {tuple(images.shape)}')
    setattr(images, _ATTRIBUTE, sizes)


def valid_sizes(images: Tensor) -> Optional[List[Pair]]:
    """What :func:`attach_valid_sizes` noted, or None."""
    return getattr(images, _ATTRIBUTE, None)


@MODELS.register_module()
class SwinPosDataPreprocessor(DetDataPreprocessor):
    """mmdet's data preprocessor, which also tells the backbone how large each image was before it was padded.

    ``SwinPosTransformer(padding='mask')`` uses it to hide the batch padding. Takes the arguments of
    ``DetDataPreprocessor``.
    """

    def forward(self, data: Dict[str, Any], training: bool = False) -> Dict[str, Any]:
        """Normalise, pad and batch as ``DetDataPreprocessor`` does.

        Args:
            data: from the data loader: ``'inputs'`` and, in most cases, ``'data_samples'``.
            training: apply batch augmentations.

        Returns:
            The same keys; valid sizes are attached to ``'inputs'``.
        """
        data = super().forward(data, training)
        samples = data.get('data_samples')
        # Batch augmentations resize the samples' img_shape together with the images.
        if samples is not None and isinstance(data['inputs'], Tensor):
            attach_valid_sizes(data['inputs'], [sample.img_shape[:2] for sample in samples])
        return data
