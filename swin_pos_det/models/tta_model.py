"""Test-time augmentation that keeps instance masks, which mmdet's refuses."""
from __future__ import annotations

import contextlib
import inspect
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from mmdet.models import DetTTAModel
from mmdet.models.roi_heads import CascadeRoIHead, SparseRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..errors import UserError

# Axes of (N, C, h, w) that a flip reverses.
_FLIPPED_AXES = {'horizontal': (3, ), 'vertical': (2, ), 'diagonal': (2, 3)}
_MIN_PROBABILITY = 1e-6


@MODELS.register_module()
class SwinPosTTAModel(DetTTAModel):
    """Merge the detections in augmented views of an image, with masks.

    Boxes are mmdet's ``DetTTAModel``'s: those of all views, back in the image's own coordinates, through one NMS.
    Then the mask head of a two-stage detector sees each merged box in each view, and its masks are the mean of the
    views' probabilities, as in Detectron2's ``GeneralizedRCNNWithTTA``. Detectors without masks are merged as by
    mmdet's.

    Args:
        module: the detector, or its config.
        tta_cfg: with ``nms`` and ``max_per_img``. Default: NMS at IoU 0.5, 100 detections.
        data_preprocessor: in place of the detector's.

    Raises:
        UserError: if the detector makes masks without a mask head for boxes; at the first image.
    """

    def __init__(self, module: Any, tta_cfg: Optional[Dict[str, Any]] = None, data_preprocessor: Any = None) -> None:
        tta_cfg = tta_cfg or dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        super().__init__(module=module, tta_cfg=ConfigDict(tta_cfg), data_preprocessor=data_preprocessor)

    def test_step(self, data: Any) -> List[DetDataSample]:
        """Detect in a batch: ``inputs`` and ``data_samples`` are lists over views of lists over images."""
        roi_head = getattr(self.module, 'roi_head', None)
        if not getattr(roi_head, 'with_mask', False):
            return super().test_step(data)
        if not isinstance(roi_head, (StandardRoIHead, CascadeRoIHead)) or isinstance(roi_head, SparseRoIHead):
            raise _unsupported(self.module)
        calls: List[inspect.BoundArguments] = []
        signature = inspect.signature(roi_head.predict_mask)

        def postpone(*args: Any, **kwargs: Any) -> List[InstanceData]:
            calls.append(signature.bind(*args, **kwargs))
            found, metas = (calls[-1].arguments[name] for name in ('results_list', 'batch_img_metas'))
            for instances, meta in zip(found, metas):
                instances.bboxes = instances.bboxes / _factors(instances.bboxes, meta)
            return found

        with _replaced(roi_head, 'predict_mask', postpone):
            merged = super().test_step(data)
        _add_masks(roi_head, merged, calls)
        return merged

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> List[DetDataSample]:
        """Merge the boxes of each image's views."""
        for sample in (sample for samples in data_samples_list for sample in samples):
            if 'pred_instances' not in sample or 'masks' in sample.pred_instances:
                raise _unsupported(self.module)
            if 'flip' not in sample:
                sample.set_metainfo(dict(flip=False, flip_direction=None))
        return super().merge_preds(data_samples_list)


def _add_masks(roi_head: nn.Module, samples: Sequence[DetDataSample], calls: Sequence[inspect.BoundArguments]) -> None:
    """Give merged boxes the mean of the masks in all views, each from a postponed call of ``predict_mask``."""
    head = roi_head.mask_head[-1] if isinstance(roi_head.mask_head, nn.ModuleList) else roi_head.mask_head
    views = [_probabilities(roi_head, head, samples, call) for call in calls]
    # predict_by_feat applies the sigmoid.
    means = [torch.logit(torch.stack(each).mean(0), _MIN_PROBABILITY) for each in zip(*views)]
    found = [sample.pred_instances for sample in samples]
    metas = [dict(ori_shape=sample.ori_shape, img_shape=sample.ori_shape, scale_factor=(1., 1.)) for sample in samples]
    found = head.predict_by_feat(mask_preds=means or [None] * len(found), results_list=found, batch_img_metas=metas,
                                 rcnn_test_cfg=roi_head.test_cfg, rescale=True)
    for sample, instances in zip(samples, found):
        sample.pred_instances = instances


def _probabilities(roi_head: nn.Module, head: nn.Module, samples: Sequence[DetDataSample],
                   call: inspect.BoundArguments) -> List[Tensor]:
    """Return for each image (N, C, h, w), the masks of its merged boxes in one view; nothing if no image has boxes."""
    metas = call.arguments['batch_img_metas']
    found: List[Tensor] = []

    def record(mask_preds: Sequence[Tensor], results_list: Any, *args: Any, activate_map: bool = False,
               **kwargs: Any) -> Any:
        for masks, meta in zip(mask_preds, metas):
            masks = masks if activate_map else masks.sigmoid()
            found.append(masks.flip(_FLIPPED_AXES[meta['flip_direction']]) if meta.get('flip') else masks)
        return results_list

    boxes = [_to_view(sample.pred_instances, meta) for sample, meta in zip(samples, metas)]
    # Cascades flip masks themselves, by an index that torch does not have.
    call.arguments.update(results_list=boxes, batch_img_metas=[dict(meta, flip=False) for meta in metas], rescale=False)
    with _replaced(head, 'predict_by_feat', record):
        roi_head.predict_mask(*call.args, **call.kwargs)
    return found


def _to_view(instances: InstanceData, meta: Dict[str, Any]) -> InstanceData:
    """Return instances with the boxes (N, 4), in pixels of the image, in those of a view."""
    boxes = instances.bboxes * _factors(instances.bboxes, meta)
    if meta.get('flip'):
        boxes = bbox_flip(boxes, meta['img_shape'], meta['flip_direction'])
    return InstanceData(bboxes=boxes, scores=instances.scores, labels=instances.labels)


def _factors(boxes: Tensor, meta: Dict[str, Any]) -> Tensor:
    """Return (1, 4): the size of a view over that of its image."""
    return boxes.new_tensor(meta['scale_factor']).repeat((1, 2))


@contextlib.contextmanager
def _replaced(module: nn.Module, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let a module have another method."""
    setattr(module, name, function)
    try:
        yield
    finally:
        delattr(module, name)


def _unsupported(module: nn.Module) -> UserError:
    return UserError(f'test-time augmentation merges boxes, and masks of two-stage detectors with a mask head, such as '
                     f'Mask R-CNN and Cascade Mask R-CNN; this is a {type(module).__name__}')
