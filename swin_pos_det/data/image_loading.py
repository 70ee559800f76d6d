"""Loading images in a pipeline, with an error that names each unusable one."""
from __future__ import annotations

import logging
from typing import Any, Optional

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine import fileio
from mmengine.logging import print_log

from .images import ImageFileError, is_complete


@TRANSFORMS.register_module()
class SwinPosLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names unusable files and detects truncated ones and wrong sizes.

    mmcv leaves a truncated JPEG to OpenCV, which fills the rest with grey, and does not compare the size of an image
    with the annotations' ``height`` and ``width``. A different size is logged, once for each image and process.

    Args:
        *args, **kwargs: mmcv's. With ``ignore_empty`` (default: False) unreadable files are
            skipped, logged and counted, over all workers; in a training another image replaces it.

    Raises:
        ImageFileError: for a file that is missing, not an image, or truncated, unless ``ignore_empty`` is set.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._skipped = torch.zeros(1, dtype=torch.int64).share_memory_()  # by all workers
        self._told: set[str] = set()

    def transform(self, results: dict) -> Optional[dict]:
        """Add ``img`` (H, W, C), ``img_shape`` and ``ori_shape`` to the results; None for a file that is skipped."""
        path = results['img_path']
        try:
            image = self._read(path)
        except (OSError, ValueError, AssertionError) as error:
            reason = str(error) or type(error).__name__
            if not self.ignore_empty:
                raise ImageFileError(f'{path} is not usable as an image: {reason}. skip_unreadable_images=True in the '
                                     'config leaves such images out of a training') from error
            self._skipped += 1
            self._tell(path, f'skipped {path}: {reason} ({self.num_skipped} skipped so far)')
            return None
        self._compare(path, results, image.shape[:2])
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    @property
    def num_skipped(self) -> int:
        """Return how often a file was skipped, in all processes that share this pipeline."""
        return int(self._skipped)

    def _read(self, path: str) -> np.ndarray:
        if self.file_client_args is not None:
            content = fileio.FileClient.infer_client(self.file_client_args, path).get(path)
        else:
            content = fileio.get(path, backend_args=self.backend_args)
        if not content:
            raise ValueError('it is empty')
        image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        if not is_complete(content):  # whether OpenCV refuses it or fills the rest depends on its version
            raise ValueError('it is truncated')
        if image is None:
            raise ValueError('it is no image')
        return image.astype(np.float32) if self.to_float32 else image

    def _compare(self, path: str, results: dict, shape: tuple[int, int]) -> None:
        said = results.get('height'), results.get('width')
        if None not in said and said != tuple(shape):
            self._tell(path, f'{path} is {shape[1]} x {shape[0]} (width x height), and its annotation file says '
                             f'{said[1]} x {said[0]}: boxes and masks are misplaced')

    def _tell(self, path: str, message: str) -> None:
        if path not in self._told:
            self._told.add(path)
            print_log(message, logger='current', level=logging.WARNING)
