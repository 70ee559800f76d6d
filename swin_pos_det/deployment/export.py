"""Export of a backbone for all image sizes and batches."""
from __future__ import annotations

import importlib.util
import io
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..checkpoints import atomic_write
from ..choices import EXPORT_ENDINGS
from ..errors import MissingPackageError, SettingError

MAX_ONNX_BYTES = 1.9e9  # of weights in the file: protobuf ends at 2 GB

Run = Callable[[Tensor], List[Tensor]]


def export_backbone(backbone: nn.Module, path: Union[str, Path], opset: int = 18) -> Path:
    """Export a backbone; batch, height and width of its images stay free.

    The current windows and tables are exported: a resampled table is resampled in the file too. Sizes are symbols
    while the graph is made, so the window policies 'fit' and 'scale', which decide by the size, are not available. With
    ``padding='mask'`` the file hides the padding of windows, not that of a batch: it does not get the images' sizes.

    Args:
        backbone: a ``SwinPosTransformer`` on the CPU. It is put into evaluation mode.
        path: ``.onnx`` for ONNX (input ``images``, outputs ``stage0``, ...), or ``.pt2`` for ``torch.export``.
        opset: of ONNX, at least 18.

    Returns:
        The path. An ONNX file of more than 2 GB has its weights beside it.

    Raises:
        ValueError: for another ending, an older opset, or a policy that depends on the size.
        ImportError: if ONNX is requested and not installed, or torch is older than 2.6.
        UnwritableFileError: if writing fails; an existing file stays unchanged.
    """
    path = Path(path)
    if path.suffix not in EXPORT_ENDINGS:
        raise SettingError(f'the file must end in {" or ".join(EXPORT_ENDINGS)}, got {path.name!r}')
    if opset < 18:
        raise SettingError(f'opset must be at least 18, got {opset}')
    _check_torch()
    check_window_policy(backbone)
    if backbone.padding == 'mask':
        warnings.warn("padding='mask': the exported file hides what completes windows, but it is not told the sizes of "
                      'images, so not what completes a batch: give it images of one size', stacklevel=2)
    backbone.eval()
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    # Odd sizes, larger than the padding of one window in every stage, so that no size is mistaken for a constant.
    side = 32 * max((max(window) for window in backbone.window_size if not isinstance(window, str)), default=7)
    images = torch.zeros(2, backbone.in_channels, side + 5, 2 * side + 9)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if path.suffix == '.pt2':
            content = io.BytesIO()  # torch's own writer aborts the process when the disk is full
            torch.export.save(torch.export.export(backbone, (images, ), dynamic_shapes=(free, ), strict=False), content)
            with atomic_write(path) as draft:
                draft.write_bytes(content.getbuffer())
        else:
            _export_onnx(backbone, images, path, free, opset)
    return path


def _export_onnx(backbone: nn.Module, images: Tensor, path: Path, free: Dict[int, object], opset: int) -> None:
    check_onnx_installed()
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    names = [f'stage{i}' for i in sorted(backbone.out_indices)]
    program = torch.onnx.export(backbone, (images, ), dynamo=True, opset_version=opset, dynamic_shapes=(free, ),
                                input_names=['images'], output_names=names, verbose=False)
    weights = sum(value.numel() * value.element_size() for value in backbone.state_dict().values())
    if weights < MAX_ONNX_BYTES:
        with atomic_write(path) as draft:
            draft.write_bytes(program.model_proto.SerializeToString())
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(str(path), external_data=True)  # two files, one of which refers to the other


def check_onnx_installed() -> None:
    """Check that this environment can export to ONNX with any image size.

    Raises:
        MissingPackageError: naming what is missing or too old.
    """
    _check_torch()
    for name in ('onnx', 'onnxscript'):
        if importlib.util.find_spec(name) is None:
            raise MissingPackageError(f"export to ONNX needs {name}: pip install 'swin-pos-det[export]'")


def check_window_policy(backbone: nn.Module) -> None:
    """Check that the windows of a backbone do not depend on the size of the image.

    Raises:
        SettingError: naming the policy.
    """
    policies = {stage.window_rule.policy for stage in backbone.stages}
    if policies != {'fixed'}:
        raise SettingError(f"window_policy={policies.pop()!r} chooses windows by the size of the image, which an "
                           "exported graph does not know; export with window_policy='fixed'")


def _check_torch() -> None:
    if not hasattr(getattr(torch.export, 'Dim', None), 'DYNAMIC'):
        raise MissingPackageError(f'export with any image size needs torch 2.6 or newer, this is {torch.__version__}')


def load_exported(path: Union[str, Path], threads: int = 0) -> Run:
    """Load an exported file as a function of images (B, C, H, W) -> feature maps.

    Args:
        path: of :func:`export_backbone`.
        threads: of onnxruntime; 0: its default. torch has its own setting.

    Raises:
        ValueError: if onnxruntime cannot run the file.
    """
    if Path(path).suffix == '.pt2':
        program = torch.export.load(path)
        try:  # the checks require more than one window in a map, which the operators in the graph do not need
            return program.module(check_guards=False)
        except TypeError:  # before torch 2.9
            return program.module()
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:
        if not type(error).__module__.startswith('onnxruntime.'):  # its errors have no base of their own
            raise
        raise SettingError(f'onnxruntime {onnxruntime.__version__} cannot run {path}; is its opset too new? {error}'
                           ) from error
    return lambda images: [torch.from_numpy(found) for found in session.run(None, {'images': images.numpy()})]


def compare_exported(backbone: nn.Module, run: Run, sizes: Iterable[Tuple[int, int, int]]) -> Dict[str, float]:
    """Return the largest difference from the backbone for random images of each size (B, H, W), by ``'BxHxW'``."""
    differences = {}
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in sizes:
        images = torch.randn(batch, backbone.in_channels, height, width, generator=generator)
        with torch.no_grad():
            want, got = backbone(images), run(images)
        largest = torch.stack([(a - b).abs().max() for a, b in zip(want, got)]).max()  # NaN if any is
        differences[f'{batch}x{height}x{width}'] = float(largest)
    return differences


def time_exported(backbone: nn.Module, run: Run, size: Sequence[int], turns: int = 5) -> Tuple[float, float]:
    """Return median seconds of the backbone and of the exported file for images of ``size`` (B, H, W), in turns."""
    images = torch.randn(size[0], backbone.in_channels, *size[1:])
    seconds: Tuple[List[float], List[float]] = ([], [])
    with torch.no_grad():
        for turn in range(turns + 1):
            for each, found in zip((backbone, run), seconds):
                start = time.perf_counter()
                each(images)
                if turn:  # the first is a warm-up
                    found.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
