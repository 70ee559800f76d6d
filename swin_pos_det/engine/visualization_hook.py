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
from torch import Tensor

from ..errors import SettingError
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
            name = f'val_{batch_idx:06d}_{osp.splitext(osp.basename(_path(outputs[0])))[0]}'
            self._visualizer.add_datasample(name, self._read(outputs[0].img_path), data_sample=outputs[0],
                                            pred_score_thr=self.score_thr, step=runner.iter)

    def before_test(self, runner: Runner) -> None:
        """Choose the folder and the names of the pictures."""
        if self.draw and self.test_out_dir is not None:
            self._folder = osp.join(runner.work_dir, runner.timestamp, self.test_out_dir)
            dataset = runner.test_dataloader.dataset
            self._names = distinct_names(_path(dataset.get_data_info(index)) for index in range(len(dataset)))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[Any]) -> None:
        """Draw each image of a batch."""
        if not self.draw:
            return
        for index, sample in enumerate(outputs):
            self._test_index += 1
            path = _path(sample)
            file = None if self._names is None else osp.join(self._folder, writable_name(self._names[path]))
            image = self._read(sample.img_path) if 'img_path' in sample else _as_image(data_batch['inputs'][index])
            self._draw(sample, image, osp.basename(path), file)

    def _draw(self, sample: DetDataSample, image: np.ndarray, name: str, file: Optional[str]) -> None:
        """Draw one image, RGB (H, W, 3), into ``file``, a window, or without either the backends of the run."""
        self._visualizer.add_datasample(
            name if self.show else 'test_img', image, data_sample=sample, show=self.show, wait_time=self.wait_time,
            pred_score_thr=self.score_thr, out_file=file, step=self._test_index)

    def _read(self, path: Union[str, Sequence[str]]) -> np.ndarray:
        """Read an image as RGB (H, W, 3), uint8; of one stored as a file per channel, take the first three."""
        if isinstance(path, str):
            return mmcv.imfrombytes(get(path, backend_args=self.backend_args), channel_order='rgb')
        channels = [mmcv.imfrombytes(get(each, backend_args=self.backend_args), flag='grayscale') for each in path[:3]]
        return to_rgb(np.stack(channels, axis=-1))


@HOOKS.register_module()
class SwinPosSegVisualizationHook(SwinPosVisualizationHook):
    """Pictures of mmsegmentation's maps, by its visualizer, named as :class:`SwinPosVisualizationHook` names them.

    mmsegmentation's own hook draws every fiftieth image, into the folder of the logs.
    """

    def _draw(self, sample: Any, image: np.ndarray, name: str, file: Optional[str]) -> None:
        self._visualizer.add_datasample(name, image, data_sample=sample, show=self.show, wait_time=self.wait_time,
                                        out_file=file, step=self._test_index)


@HOOKS.register_module()
class SwinPosClsVisualizationHook(SwinPosVisualizationHook):
    """Pictures with mmpretrain's classes, by its visualizer, named as :class:`SwinPosVisualizationHook` names them.

    mmpretrain's own hook draws every five thousandth image.

    Args:
        draw_args: further arguments of ``UniversalVisualizer.visualize_cls``, such as ``resize``.
        **settings: see :class:`SwinPosVisualizationHook`.
    """

    def __init__(self, draw_args: Optional[dict[str, Any]] = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._draw_args = draw_args or {}

    def _draw(self, sample: Any, image: np.ndarray, name: str, file: Optional[str]) -> None:
        self._visualizer.visualize_cls(image, sample, name=name, show=self.show, wait_time=self.wait_time,
                                       out_file=file, step=self._test_index, **self._draw_args)


# Of the hooks of a library: its visualizer and ours, its hook and ours.
_OWN = {
    'DetVisualizationHook': SwinPosVisualizationHook,
    'SegVisualizationHook': SwinPosSegVisualizationHook,
    'VisualizationHook': SwinPosClsVisualizationHook,
}


def show_predictions(cfg: Config, show: bool, folder: Optional[str], wait_time: float) -> None:
    """Set a config, in place, to draw every image that is tested, with this package's hook for the config's library.

    Args:
        cfg: of MMDetection, mmsegmentation or mmpretrain.
        show: open a window for each image.
        folder: for pictures, inside the timestamped folder of the work dir.
        wait_time: seconds for which a window stays.

    Raises:
        SettingError: if the config has no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise SettingError("--show and --show-dir need default_hooks.visualization = dict(type='DetVisualizationHook') "
                           "in the config, with mmsegmentation 'SegVisualizationHook', with mmpretrain "
                           "'VisualizationHook'")
    use_own_visualization(cfg)
    hook.update(dict(draw=True), **(dict(show=True, wait_time=wait_time) if show else {}),
                **(dict(test_out_dir=folder) if folder else {}))


def use_own_visualization(cfg: Config) -> None:
    """Replace a library's visualization hook, and MMDetection's visualizer, by this package's, in place."""
    if type_name(cfg.get('visualizer') or {}) == 'DetLocalVisualizer':
        cfg.visualizer['type'] = f'mmdet.{SwinPosVisualizer.__name__}'
    hook = cfg.default_hooks.get('visualization') or {}
    own = _OWN.get(type_name(hook))
    if own is SwinPosClsVisualizationHook:
        given = {key: hook.pop(key) for key in list(hook) if key not in ('type', 'show', 'wait_time', '_scope_')}
        hook['draw_args'] = {key: given[key] for key in given if key not in ('enable', 'interval', 'out_dir')}
    if own is not None:
        hook['type'] = f'mmdet.{own.__name__}'


def _path(info: Any) -> str:
    """Return the path of an image, by the dict or the sample that its data set gives; without one, its number."""
    path, number = info.get('img_path'), info.get('sample_idx')
    if path is None and number is None:
        raise SettingError('pictures are named after img_path or sample_idx, and the test pipeline keeps neither: add '
                           'one to meta_keys of its last transform')
    if path is None:
        return f'{number:06d}.png'
    return path if isinstance(path, str) else path[0]


def _as_image(loaded: Tensor) -> np.ndarray:
    """Return an image that a data set holds in memory, (C, H, W) in BGR, as RGB (H, W, 3), uint8."""
    return to_rgb(loaded.permute(1, 2, 0).cpu().numpy())
