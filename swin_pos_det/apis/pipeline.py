"""A config's test pipeline, for files, arrays and frames of videos alike."""
from __future__ import annotations

import copy
from typing import Callable

import cv2
import numpy as np
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from torch import nn

from ..errors import SettingError
from ..models.data_preprocessor import input_channels, kept_channels
from ..type_names import type_name
from .images import ImageError, ImageLike, read_image

_LOADERS = ('LoadImageFromFile', 'SwinPosLoadImageFromFile', 'LoadMultiChannelImageFromFiles')


class InputPipeline:
    """Read and prepare images as a config's test pipeline does.

    Args:
        model: of :func:`~swin_pos_det.apis.init_detector`.

    Raises:
        SettingError: if the pipeline does not start with loading a file.
    """

    def __init__(self, model: nn.Module) -> None:
        steps = _test_pipeline(model.cfg)
        arrays = dict(type='mmdet.LoadImageFromNDArray', to_float32=steps[0].get('to_float32', False))
        rest = [step for step in steps[1:] if type_name(step) != 'LoadAnnotations']
        self._load = TRANSFORMS.build(steps[0])
        self._prepare = Compose([TRANSFORMS.build(step) for step in (arrays, *rest)])
        self._channels = input_channels(model)
        self._kept: Callable[[int], int] = kept_channels(model)

    def read(self, image: ImageLike) -> np.ndarray:
        """Read a file or convert an array; see :func:`~swin_pos_det.apis.images.read_image`.

        Raises:
            ImageError: if it is unreadable, or its number of channels is not the detector's.
        """
        loaded = read_image(image, self._load)
        channels = loaded.shape[2] if loaded.ndim == 3 else 1
        if self._channels not in (None, self._kept(channels)):
            name = 'the image' if isinstance(image, np.ndarray) else str(image)
            raise ImageError(f'{name} has {channels} channels, the detector takes {self._channels} '
                             f'(backbone.in_channels)')
        return loaded

    def prepare(self, image: np.ndarray, index: int = 0) -> dict:
        """Turn a loaded image into an item of a batch.

        Raises:
            ImageError: if the pipeline fails, as for an image that would be less than a pixel wide.
        """
        try:
            return self._prepare(dict(img=image, img_id=index))
        except (cv2.error, ValueError, ZeroDivisionError) as error:
            height, width = image.shape[:2]
            raise ImageError(f"the config's test pipeline cannot prepare an image of {width}x{height} pixels "
                             f'({type(error).__name__})') from error


def reads_folders(cfg: Config) -> bool:
    """Return whether an image of a config is a folder with a file per channel."""
    return type_name(_test_pipeline(cfg)[0]) == 'LoadMultiChannelImageFromFiles'


def _test_pipeline(cfg: Config) -> list[dict]:
    if cfg.get('test_dataloader') is None:
        raise SettingError('the config has no test_dataloader, which says how images are prepared')
    steps = copy.deepcopy(list(get_test_pipeline_cfg(cfg)))
    if type_name(steps[0]) not in _LOADERS:
        raise SettingError(f'the test pipeline starts with {type_name(steps[0])}; {", ".join(_LOADERS)} are '
                           'supported')
    return steps
