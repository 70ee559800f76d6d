"""An exported detector in the place of a model of mmdet: for evaluation by a runner and for ``apis.predict_files``."""
from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import SettingError
from ..type_names import type_name
from .exportable import RESIZES
from .onnx_detector import OnnxDetector


@MODELS.register_module()
class OnnxModel(BaseModel):
    """Run an exported detector on the batches of mmdet's data loaders.

    Args:
        path: of the file.
        providers: see :class:`OnnxDetector`.

    Attributes:
        cfg: with the test pipeline that the file was exported for.
        dataset_meta: ``classes`` and ``palette``.
    """

    def __init__(self, path: str, providers: Sequence[str] = ('cpu', )) -> None:
        super().__init__()
        self.detector = OnnxDetector(path, providers, torch.get_num_threads())
        about = self.detector.metadata
        steps = [dict(type='LoadImageFromFile', backend_args=None)]
        if not about['raw']:
            steps.append(dict(type='mmdet.Resize', scale=tuple(about['test_scale']), keep_ratio=about['keep_ratio']))
        steps.append(dict(type='mmdet.PackDetInputs',
                          meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')))
        self.cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=steps))))
        self.dataset_meta = dict(classes=tuple(self.detector.classes), palette=self.detector.palette or 'random')

    def forward(self, inputs: Sequence[Tensor], data_samples: Sequence[DetDataSample],
                mode: str = 'predict') -> List[DetDataSample]:
        """Detect.

        Args:
            inputs: (3, H, W) images, BGR, as the test pipeline gives them.
            data_samples: of each.
            mode: ``'predict'``.

        Returns:
            The samples with ``pred_instances`` in pixels of the original images.
        """
        if mode != 'predict':
            raise SettingError(f"an exported detector cannot be run with mode={mode!r}: it can predict")
        detector, about = self.detector, self.detector.metadata
        for image, sample in zip(inputs, data_samples):
            array = image.permute(1, 2, 0).numpy() if about['raw'] else image.float().numpy()
            output, = detector.run([array])
            found = detector.to_instances(output, tuple(sample.ori_shape[:2]), sample.get('scale_factor', (1., 1.)))
            sample.pred_instances = InstanceData(**{
                name: torch.from_numpy(value) for name, value in vars(found).items() if value is not None})
        return list(data_samples)

    def test_step(self, data: Dict[str, Any]) -> List[DetDataSample]:
        """Detect in a batch of a data loader, image by image."""
        return self(**data)


def use_onnx_model(cfg: Config, path: str, providers: Sequence[str]) -> Dict[str, Any]:
    """Let a config evaluate an exported detector in place of its model.

    Args:
        cfg: with a test data loader; its pipeline loses the resizing that a file for raw images has inside.
        path: of the file.
        providers: see :class:`OnnxDetector`.

    Returns:
        Like the ``meta`` of a checkpoint, the names of its classes.
    """
    detector = OnnxDetector(path, providers)
    cfg.model = dict(type='mmdet.OnnxModel', path=path, providers=list(providers))
    cfg.load_from, cfg.resume = None, False
    for name in ('strategy', 'runner_type'):
        cfg.pop(name, None)
    if detector.metadata['raw']:
        dataset = cfg.test_dataloader.dataset
        dataset.pipeline = [step for step in dataset.pipeline if type_name(step) not in RESIZES]
    return dict(dataset_meta=dict(classes=detector.classes))
