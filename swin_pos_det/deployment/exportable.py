"""Which detectors :mod:`~swin_pos_det.deployment.detector_graph` restates; others are refused by the part's name."""
from __future__ import annotations

from typing import Any, Dict, Iterator, NamedTuple, Tuple, Union

import mmcv.ops
from mmdet.models import dense_heads, detectors, roi_heads
from mmdet.models.backbones import SwinTransformer
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.roi_heads import bbox_heads, mask_heads, roi_extractors
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from mmengine.config import ConfigDict
from torch import nn

from ..errors import SettingError
from ..models import SwinPosDataPreprocessor, SwinPosTransformer
from ..models.data_preprocessor import input_channels
from ..type_names import type_name
from .export import check_window_policy

_DENSE = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')
_ROI = ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward')
RESIZES = ('Resize', 'FixScaleResize')
_BOX = ('predict_by_feat', '_predict_by_feat_single', 'regress_by_class')


class Part(NamedTuple):
    """A part of a detector: its place, and the class that says what it does by which methods."""
    name: str
    part: Any
    base: type
    methods: Tuple[str, ...]


def check_exportable(detector: nn.Module) -> None:
    """Check that a detector's parts do what the exported graph does.

    Args:
        detector: of mmdet, two stages or one.

    Raises:
        SettingError: naming the first part that does something else.
    """
    for name, part, base, methods in _parts(detector):
        if not isinstance(part, base) or any(getattr(type(part), each) is not getattr(base, each) for each in methods):
            raise SettingError(f'{name} of the detector is a {type(part).__name__}, which cannot be exported: the '
                               f'export supports {base.__name__} and subclasses that keep its prediction methods')
    _check_backbone(detector)
    _check_settings(detector)


def own_backbone(backbone: nn.Module, cfg: ConfigDict) -> nn.Module:
    """Return a backbone whose sizes can stay free: mmdet's Swin as :class:`SwinPosTransformer`, which equals it.

    Args:
        backbone: of the detector.
        cfg: its settings.
    """
    if type(backbone) is not SwinTransformer:
        return backbone
    settings = {key: value for key, value in cfg.items()
                if key not in ('type', '_scope_', 'init_cfg', 'pretrained', 'convert_weights')}
    own = SwinPosTransformer(**settings)
    own.load_state_dict(backbone.state_dict())
    return own.eval()


def pipeline_resize(cfg: ConfigDict) -> Dict[str, Any]:
    """Return how a config's test pipeline resizes an image: ``scale`` as (w, h), and ``keep_ratio``.

    Raises:
        SettingError: if it does anything else to the image.
    """
    steps = list(cfg.test_dataloader.dataset.pipeline)
    names = [type_name(step) for step in steps]
    changes = [step for step in steps if type_name(step) in RESIZES]
    if len(changes) != 1 or set(names[1:]) - {*RESIZES, 'LoadAnnotations', 'PackDetInputs'}:
        raise SettingError(f'the test pipeline is {", ".join(names)}: besides loading and packing, it may have one '
                           'Resize')
    step = changes[0]
    scale = step.get('scale')
    if not isinstance(scale, (tuple, list)) or (step.get('backend', 'cv2'), step.get('interpolation', 'bilinear')) != (
            'cv2', 'bilinear'):
        raise SettingError(f'{dict(step)} of the test pipeline: it needs scale=(w, h), and OpenCV\'s bilinear '
                           'interpolation')
    if steps[0].get('color_type', 'color') != 'color':
        raise SettingError(f"the test pipeline loads images with color_type={steps[0]['color_type']!r}: a file takes "
                           "'color'")
    return dict(scale=list(scale), keep_ratio=step.get('keep_ratio', False))


def _parts(detector: nn.Module) -> Iterator[Part]:
    preprocessor = detector.data_preprocessor
    base = SwinPosDataPreprocessor if isinstance(preprocessor, SwinPosDataPreprocessor) else DetDataPreprocessor
    yield Part('data_preprocessor', preprocessor, base, ('forward', ))
    if hasattr(detector, 'roi_head'):
        yield Part('type', detector, detectors.TwoStageDetector, ('predict', 'extract_feat'))
        yield Part('rpn_head', detector.rpn_head, dense_heads.RPNHead, _DENSE)
        yield from _anchor_parts('rpn_head', detector.rpn_head)
        yield from _roi_parts(detector.roi_head)
    else:
        yield Part('type', detector, detectors.SingleStageDetector, ('predict', 'extract_feat'))
        yield Part('bbox_head', detector.bbox_head, dense_heads.base_dense_head.BaseDenseHead, _DENSE)
        yield from _anchor_parts('bbox_head', detector.bbox_head)


def _anchor_parts(name: str, head: nn.Module) -> Iterator[Part]:
    yield Part(f'{name}.anchor_generator', getattr(head, 'prior_generator', None), AnchorGenerator,
               ('single_level_grid_priors', 'grid_priors'))
    yield Part(f'{name}.bbox_coder', getattr(head, 'bbox_coder', None), DeltaXYWHBBoxCoder, ('decode', ))


def _roi_parts(head: nn.Module) -> Iterator[Part]:
    cascade = isinstance(head, roi_heads.CascadeRoIHead)
    base = roi_heads.CascadeRoIHead if cascade else roi_heads.StandardRoIHead
    yield Part('roi_head', head, base, (*_ROI, '_refine_roi') if cascade else _ROI)
    for name, part in _numbered('bbox_roi_extractor', head.bbox_roi_extractor):
        yield from _extractor_parts(name, part)
    for name, part in _numbered('bbox_head', head.bbox_head):
        yield Part(name, part, bbox_heads.BBoxHead, _BOX)
        yield Part(f'{name}.bbox_coder', part.bbox_coder, DeltaXYWHBBoxCoder, ('decode', ))
    if head.with_mask:
        for name, part in _numbered('mask_roi_extractor', head.mask_roi_extractor):
            yield from _extractor_parts(name, part)
        for name, part in _numbered('mask_head', head.mask_head):
            yield Part(name, part, mask_heads.FCNMaskHead, ('predict_by_feat', '_predict_by_feat_single'))


def _extractor_parts(name: str, extractor: nn.Module) -> Iterator[Part]:
    yield Part(name, extractor, roi_extractors.SingleRoIExtractor, ('forward', 'map_roi_levels'))
    for layer in extractor.roi_layers:
        yield Part(f'{name}.roi_layer', layer, mmcv.ops.RoIAlign, ('forward', ))


def _numbered(name: str, part: Union[nn.Module, nn.ModuleList]) -> Iterator[Tuple[str, nn.Module]]:
    if isinstance(part, nn.ModuleList):
        yield from ((f'roi_head.{name}[{index}]', each) for index, each in enumerate(part))
    else:
        yield f'roi_head.{name}', part


def _check_settings(detector: nn.Module) -> None:
    """Check the settings of parts that are known, for what the graph does not follow."""
    if not hasattr(detector, 'roi_head'):
        _check_head('bbox_head', detector.bbox_head)
        _check_nms('bbox_head', detector.bbox_head.test_cfg)
        smallest = detector.bbox_head.test_cfg.get('min_bbox_size', -1)
        if smallest > 0:
            raise SettingError(f'bbox_head.test_cfg.min_bbox_size={smallest} is in pixels of the original image, whose '
                               'size an exported graph does not know: set it to 0')
        return
    roi = detector.roi_head
    _check_head('rpn_head', detector.rpn_head)
    _check_nms('rpn_head', detector.rpn_head.test_cfg)
    _check_nms('roi_head', roi.test_cfg)
    if roi.with_shared_head:
        raise SettingError(f'roi_head.shared_head ({type(roi.shared_head).__name__}) cannot be exported')
    for name, head in _numbered('bbox_head', roi.bbox_head):
        _check_head(name, head)
    for kind in ('bbox_roi_extractor', *['mask_roi_extractor'] * roi.with_mask):
        for name, extractor in _numbered(kind, getattr(roi, kind)):
            if any(layer.pool_mode != 'avg' or layer.use_torchvision for layer in extractor.roi_layers):
                raise SettingError(f"{name}.roi_layer must have pool_mode='avg' and use_torchvision=False")


def _check_nms(name: str, cfg: ConfigDict) -> None:
    nms = cfg.get('nms') or {}
    unknown = set(nms) - {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if type_name(nms) != 'nms' or unknown or 'iou_threshold' not in nms:
        raise SettingError(f"{name}.test_cfg.nms is {dict(nms)}: type='nms' with iou_threshold can be exported")


def _check_head(name: str, head: nn.Module) -> None:
    if getattr(head.loss_cls, 'custom_cls_channels', False):
        raise SettingError(f'{name}.loss_cls is a {type(head.loss_cls).__name__}, whose activation cannot be exported')
    if head.bbox_coder.add_ctr_clamp:
        raise SettingError(f'{name}.bbox_coder.add_ctr_clamp=True cannot be exported')


def _check_backbone(detector: nn.Module) -> None:
    if isinstance(detector.backbone, SwinPosTransformer):
        check_window_policy(detector.backbone)
    channels = input_channels(detector)
    if channels not in (None, 3):
        raise SettingError(f'backbone.in_channels is {channels}: detectors of images with 3 channels can be exported')
