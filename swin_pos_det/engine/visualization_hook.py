"""Pictures of predictions while a runner tests or validates."""
from __future__ import annotations

import os.path as osp
from typing import Any, Optional, Sequence, Set, Union

import mmcv
import numpy as np
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.runner import Runner

from ..type_names import type_name
from ..visualization import distinct_names, to_rgb, writable_name
from ..visualization.visualizer import SwinPosVisualizer


@HOOKS.register_module()
class SwinPosVisualizationHook(DetVisualizationHook):
    """``DetVisualizationHook`` that keeps the pictures of all images, also of those with equal names.

    MMDetection's hook names a picture like its image, so the later of two images with one name in different folders
    overwrites the earlier, and a relative work dir gets a nested folder for every batch. Here pictures
    have the images' names if those are distinct, else their paths below their common folder. Takes the
    arguments of ``DetVisualizationHook``, and:

    Args:
        val_images: draw that many images, spread evenly, the same at each validation, under their own names. Default:
            every ``interval``-th, other ones each time.
        **kwargs: see ``DetVisualizationHook``.
    """

    _names: Optional[dict[str, str]] = None
    _folder = ''

    def __init__(self, val_images: Optional[int] = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_images = val_images
        self._drawn: Set[int] = set()  # batches of the validation of which the first image is drawn

    def before_val(self, runner: Runner) -> None:
        """Choose the images to draw."""
        if self.val_images is not None:
            batches = len(runner.val_dataloader)
            chosen = np.linspace(0, batches - 1, min(self.val_images, batches))
            self._drawn = set(chosen.round().astype(int).tolist())

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict,
                       outputs: Sequence[DetDataSample]) -> None:
        """Draw the first image of a batch, if it is one of those chosen."""
        if self.val_images is None:
            super().after_val_iter(runner, batch_idx, data_batch, outputs)
        elif self.draw and batch_idx in self._drawn:
            name = f'val_{batch_idx:06d}_{osp.splitext(osp.basename(_path(outputs[0].img_path)))[0]}'
            self._visualizer.add_datasample(name, self._read(outputs[0].img_path), data_sample=outputs[0],
                                            pred_score_thr=self.score_thr, step=runner.iter)

    def before_test(self, runner: Runner) -> None:
        """Choose the folder and the names of the pictures."""
        if self.draw and self.test_out_dir is not None:
            self._folder = osp.join(runner.work_dir, runner.timestamp, self.test_out_dir)
            dataset = runner.test_dataloader.dataset
            self._names = distinct_names(_path(dataset.get_data_info(index)['img_path'])
                                         for index in range(len(dataset)))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict,
                        outputs: Sequence[DetDataSample]) -> None:
        """Draw each image of a batch."""
        if not self.draw:
            return
        for sample in outputs:
            self._test_index += 1
            path = _path(sample.img_path)
            file = None if self._names is None else osp.join(self._folder, writable_name(self._names[path]))
            self._visualizer.add_datasample(
                osp.basename(path) if self.show else 'test_img', self._read(sample.img_path), data_sample=sample,
                show=self.show, wait_time=self.wait_time, pred_score_thr=self.score_thr, out_file=file,
                step=self._test_index)

    def _read(self, path: Union[str, Sequence[str]]) -> np.ndarray:
        """Read an image as RGB (H, W, 3), uint8; of one stored as a file per channel, take the first three."""
        if isinstance(path, str):
            return mmcv.imfrombytes(get(path, backend_args=self.backend_args), channel_order='rgb')
        channels = [mmcv.imfrombytes(get(each, backend_args=self.backend_args), flag='grayscale') for each in path[:3]]
        return to_rgb(np.stack(channels, axis=-1))


def use_own_visualization(cfg: Config) -> None:
    """Replace MMDetection's visualizer and hook in a config by this package's, in place."""
    for part, theirs, ours in (('visualizer', 'DetLocalVisualizer', SwinPosVisualizer),
                               ('visualization', 'DetVisualizationHook', SwinPosVisualizationHook)):
        settings = (cfg if part == 'visualizer' else cfg.default_hooks).get(part)
        if settings and type_name(settings) == theirs:
            settings['type'] = f'mmdet.{ours.__name__}'


def _path(path: Union[str, Sequence[str]]) -> str:
    return path if isinstance(path, str) else path[0]
