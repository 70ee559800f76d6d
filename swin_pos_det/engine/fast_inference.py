"""Faster inference of any mmdet detector: backbone and neck from CUDA graphs, in half precision, or both."""
from __future__ import annotations

from typing import Any, Callable, Hashable, Optional, Union

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_map

from ..choices import HALF_DTYPES
from ..errors import SettingError, UserError
from ..models.data_preprocessor import attach_valid_sizes, valid_sizes
from ..ops.cuda_graphs import MAX_GRAPHS, GraphedCall
from ..ops.runtime import warn, without_autocast


@HOOKS.register_module()
class FastInferenceHook(Hook):
    """Test faster, see :func:`speed_up`: ``custom_hooks=[dict(type='mmdet.FastInferenceHook', cuda_graphs=True)]``.

    Args:
        cuda_graphs, half: see there.
    """

    def __init__(self, cuda_graphs: bool = False, half: Union[bool, str] = False) -> None:
        self.settings = dict(cuda_graphs=cuda_graphs, half=half)
        half_dtype(half, torch.device('cpu'))

    def before_test(self, runner: Runner) -> None:
        """Speed up the model, after its weights were loaded."""
        speed_up(runner.model, **self.settings)


def speed_up(model: nn.Module, cuda_graphs: bool = False, half: Union[bool, str] = False) -> None:
    """Make the inference of the detectors in a model faster, from now on. Training is not possible after ``half``.

    Args:
        model: a detector on the device where it will run, or a model with one inside, as for test-time augmentation.
        cuda_graphs: replay backbone and neck from CUDA graphs, one per padded size, with equal results; see
            :class:`~swin_pos_det.ops.cuda_graphs.GraphedCall`. Without effect on other devices; this warns.
        half: compute backbone and neck in half precision: 'float16', 'bfloat16', or True for float16 on a GPU and
            bfloat16 on a CPU.

    Raises:
        SettingError: if the model has no detector with a backbone, or the dtype is unknown.
    """
    detectors = [part for part in model.modules() if isinstance(part, BaseDetector) and hasattr(part, 'backbone')]
    if not detectors:
        raise SettingError(f'{type(model).__name__} has no mmdet detector with a backbone: --half and --cuda-graphs '
                           'need one')
    device = next(detectors[0].parameters()).device
    if cuda_graphs and device.type != 'cuda':
        warn(f'CUDA graphs have no effect on the device {str(device)!r}')
    for detector in detectors:
        detector.extract_feat = FastFeatures(detector, MAX_GRAPHS if cuda_graphs else 0, half_dtype(half, device))
        detector.register_forward_hook(detector.extract_feat.check)


def half_dtype(half: Union[bool, str], device: torch.device) -> Optional[torch.dtype]:
    """Return the dtype that a setting of :func:`speed_up` names; None for none.

    Raises:
        SettingError: if it is unknown.
    """
    if half is False:
        return None
    name = ('bfloat16' if device.type == 'cpu' else 'float16') if half is True else half
    if name not in HALF_DTYPES:
        raise SettingError(f'half precision must be one of {HALF_DTYPES}, True or False, got {half!r}')
    return getattr(torch, name)


class FastFeatures:
    """The ``extract_feat`` of a detector: the same features, faster.

    With a dtype, backbone and neck have weights of it and compute in it, except batch norms. Images come in, and
    features go out, in float32, which boxes, RoIAlign and NMS need. Torch's norms and softmax accumulate in float32
    for every input dtype.

    Args:
        detector: with ``backbone``, and in most cases ``neck``.
        max_graphs: CUDA graphs kept at most; 0: none are made.
        dtype: of the weights of backbone and neck; None: unchanged.
        graph_device: for tests, ``device`` of :class:`~swin_pos_det.ops.cuda_graphs.GraphedCall`.
    """

    def __init__(self, detector: BaseDetector, max_graphs: int = 0, dtype: Optional[torch.dtype] = None,
                 graph_device: Any = None) -> None:
        self.extract: Callable[[Tensor], Any] = detector.extract_feat
        self.dtype = dtype
        self._sum: Optional[Tensor] = None
        parts = [part for part in (detector.backbone, getattr(detector, 'neck', None)) if isinstance(part, nn.Module)]
        for part in parts if dtype is not None else ():
            _cast(part, dtype)
        self.compute: Callable[..., Any] = self._compute
        if max_graphs:
            self.compute = GraphedCall(self._compute, parts, max_graphs, graph_device)

    def __call__(self, images: Tensor) -> Any:
        """Return the features of (B, C, H, W) images."""
        sizes = valid_sizes(images)
        features = self.compute(images, None if sizes is None else tuple(sizes))
        if self.dtype is not None:  # a sum is not finite if one of its terms is not; this does not synchronize
            total = sum(feature.sum() for feature in tree_flatten(features)[0])
            self._sum = total if self._sum is None else self._sum + total
        return features

    def _compute(self, images: Tensor, sizes: Hashable) -> Any:
        images = images if self.dtype is None else images.to(self.dtype)
        if sizes is not None:
            attach_valid_sizes(images, sizes)
        if self.dtype is None:
            return self.extract(images)
        with without_autocast(images):
            return tree_map(Tensor.float, self.extract(images))

    def check(self, *_: Any) -> None:
        """Refuse results of features that overflowed: a forward hook of the detector, which has synchronized.

        Raises:
            UserError: if features since the last check are not finite.
        """
        total, self._sum = self._sum, None
        if total is not None and not torch.isfinite(total):
            other = 'run without --half' if self.dtype == torch.bfloat16 else 'use --half bfloat16, or run without it'
            raise UserError(f'features are not finite in {str(self.dtype).partition(".")[2]}: {other}')


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    module.to(dtype)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.float()  # its variances would lose digits; it takes both
