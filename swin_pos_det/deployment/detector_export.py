"""Export of a whole detector to ONNX, for images of any size, once it is shown to equal the detector."""
from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Union

import torch
from torch import nn

from ..checkpoints import atomic_write
from ..errors import MissingPackageError, SettingError, UserError
from ..models import SwinPosTransformer
from ..version import __version__
from .detector_comparison import Comparison, compare_detector, compare_wrapped
from .detector_graph import DetectorGraph
from .export import MAX_ONNX_BYTES, check_onnx_installed
from .exportable import check_exportable, own_backbone, pipeline_resize
from .onnx_detector import OnnxDetector
from .onnx_wrapping import wrap

OPSET = 18  # of the operators in onnx_translations
_SCOPE = 'pkg.torch.onnx.name_scopes'  # of a node: the modules it is from
_HALF_BOX_TOLERANCE = 2.  # pixels within which a detection counts as the same
_PRODUCTS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
_PACKAGES = ('torch', 'mmdet', 'onedl-mmdetection', 'onnx', 'onnxscript', 'onnxruntime')


class DetectorExport(NamedTuple):
    """What :func:`export_detector` did.

    Attributes:
        path: of the file; there is none unless the detectors are equal.
        comparisons: with the detector in torch, at sizes that were not traced.
        half: likewise, of the file in float16; they do not decide.
    """
    path: Path
    comparisons: List[Comparison]
    half: Sequence[Comparison] = ()

    @property
    def equal(self) -> bool:
        """Whether the file finds what the detector finds, and so was written."""
        return all(comparison.equal for comparison in self.comparisons)


def export_detector(detector: nn.Module, path: Union[str, Path], batch_size: int = 1, raw: bool = False,
                    pasted: bool = False, half: bool = False) -> DetectorExport:
    """Export a detector, compare it with the original, and write the file if they are equal.

    The graph has normalisation, padding, the network, box decoding, NMS and the masks. Windows are those of the moment.

    Args:
        detector: of :func:`~swin_pos_det.apis.build_detector`, on the CPU. It is put into evaluation mode.
        path: of the file, ending in ``.onnx``.
        batch_size: images at once, all of one size.
        raw: the input is one image (H, W, 3) uint8 of any size, which the graph resizes.
        pasted: masks are booleans (D, H, W) of the size of the input.
        half: convert backbone, neck and products to float16 after the comparison; inputs and outputs stay float32.

    Returns:
        The comparisons.

    Raises:
        SettingError: naming the part of the detector that cannot be exported, or the ending.
        MissingPackageError: if ONNX is not installed or torch too old.
        UnwritableFileError: if the file cannot be written; one of that name stays as it was.
    """
    path = Path(path)
    if path.suffix != '.onnx':
        raise SettingError(f'the file must end in .onnx, got {path.name!r}')
    if raw and batch_size > 1:
        raise SettingError(f'images that are resized in the graph come one by one, got batch_size={batch_size}')
    if pasted and not getattr(detector, 'with_mask', False):
        raise SettingError(f'{type(detector).__name__} has no masks to paste')
    model = to_onnx(detector, batch_size)
    content = model.SerializeToString()
    threads = torch.get_num_threads()
    exported = OnnxDetector(content, threads=threads)
    comparisons = compare_detector(detector, exported)
    halved: List[Comparison] = []
    if half:
        model = to_half(model)
        content = model.SerializeToString()
        exported = OnnxDetector(content, threads=threads)
        halved = compare_detector(detector, exported, within=_HALF_BOX_TOLERANCE)
    if raw or pasted:
        about = dict(exported.metadata, raw=raw, masks_pasted=pasted)
        content = _described(wrap(model, about, raw, pasted), about).SerializeToString()
        comparisons += compare_wrapped(exported, OnnxDetector(content, threads=threads))
    done = DetectorExport(path, comparisons, halved)
    if done.equal:
        with atomic_write(path) as draft:
            draft.write_bytes(content)
    return done


def to_onnx(detector: nn.Module, batch_size: int = 1) -> Any:
    """Return a detector as an ``onnx.ModelProto``; see :func:`export_detector`."""
    check_onnx_installed()
    check_exportable(detector)
    if sum(value.numel() * value.element_size() for value in detector.state_dict().values()) > MAX_ONNX_BYTES:
        raise SettingError('the detector has more than 1.9 GB of weights, which do not fit into one ONNX file')
    metadata = describe(detector, batch_size)
    detector.eval()
    graph = DetectorGraph(detector, batch_size)
    graph.backbone = own_backbone(detector.backbone, detector.cfg.model.backbone)
    return _described(_trace(graph.eval(), torch.tensor([metadata['score_threshold']])), metadata)


def to_half(model: Any) -> Any:
    """Return a model whose backbone, neck and products compute in float16; boxes and scores stay in float32.

    Raises:
        MissingPackageError: if onnxruntime does not bring its converter.
    """
    import onnx
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise MissingPackageError(f"--fp16 needs onnxruntime's converter: {error}") from error
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    scopes = {node.name: next((entry.value for entry in node.metadata_props if entry.key == _SCOPE), '')
              for node in halved.graph.node}
    kept = [node.name for node in halved.graph.node if node.op_type not in _PRODUCTS
            and not scopes[node.name].startswith(("['', 'backbone", "['', 'neck"))]
    return convert_float_to_float16(halved, keep_io_types=True, node_block_list=kept)


def describe(detector: nn.Module, batch_size: int) -> Dict[str, Any]:
    """Return what a file says of itself: what :class:`OnnxDetector` needs, and where it is from."""
    resize = pipeline_resize(detector.cfg)
    cfg = (detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head).test_cfg
    classes = list(detector.dataset_meta['classes'])
    palette = detector.dataset_meta.get('palette')
    if isinstance(palette, str) or palette is None or len(palette) < len(classes):
        palette = None
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(
        detector=type(detector).__name__, backbone=type(detector.backbone).__name__,
        classes=classes, palette=palette and [list(map(int, colour)) for colour in palette[:len(classes)]],
        test_scale=resize['scale'], keep_ratio=resize['keep_ratio'], batch_size=batch_size, raw=False,
        score_threshold=float(cfg.get('score_thr', 0.)), iou_threshold=float(cfg['nms']['iou_threshold']),
        max_per_image=cfg['max_per_img'], mask_threshold=float(cfg.get('mask_thr_binary', 0.5)), masks_pasted=False,
        versions={'swin-pos-det': __version__, **versions})


def _described(model: Any, metadata: Dict[str, Any]) -> Any:
    import onnx
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    return model


def _trace(graph: DetectorGraph, threshold: torch.Tensor) -> Any:
    from .operators import onnx_translations
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    # Odd, and larger than the padding of one window in every stage: nothing is taken for a constant by chance.
    windows = graph.backbone.window_size if isinstance(graph.backbone, SwinPosTransformer) else []
    side = 32 * max((max(window) for window in windows if not isinstance(window, str)), default=7)
    images = torch.zeros(graph.images, 3, side + 5, 2 * side + 9)
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            program = torch.export.export(graph, (images, threshold), strict=False,
                                          dynamic_shapes=({2: free, 3: free}, None),
                                          prefer_deferred_runtime_asserts_over_guards=True)
        except UserError:
            raise
        except Exception as error:  # torch has no base for what a graph cannot hold
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingError(f'{type(graph.backbone).__name__}, {type(graph.neck).__name__} or a head of the '
                               f'detector cannot be exported for any image size: {reason}') from error
        model = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False,
                                  input_names=['image', 'score_threshold'], output_names=graph.outputs,
                                  custom_translation_table=onnx_translations()).model_proto
    return _finish(model, threshold)


def _finish(model: Any, threshold: torch.Tensor) -> Any:
    """Give the threshold its default, and drop the notes of where in the source each node is from."""
    import onnx
    model.graph.initializer.append(onnx.numpy_helper.from_array(threshold.numpy(), 'score_threshold'))
    for holder in (model.graph, *model.functions):
        for each in (holder, *holder.node, *holder.value_info):
            scope = [entry for entry in each.metadata_props if entry.key == _SCOPE]  # for profiles and to_half
            del each.metadata_props[:]
            each.metadata_props.extend(scope)
            each.doc_string = ''
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    return model
