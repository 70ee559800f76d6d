"""Inspecting checkpoints, and writing them in another library's format."""
from __future__ import annotations

import io
import json
import os
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..layers import parameters_of_position, resample_table
from ..ops.windows import Pair
from .atomic import atomic_write
from .formats import EXPORTS, EXPORTS_V2, TABLE
from .tensor_checks import check_value
from .variants import Variant, describe_weights
from .weights import ABSOLUTE_GRID, POSITION, TABLE_WINDOWS, SwinWeights, read_weights, unwrap

# The entry that each library's own files keep the weights in.
_CONTAINERS = {'mmdet': 'state_dict', 'microsoft': 'model'}
_LIKE = torch.zeros(1, dtype=torch.float64)  # holds any weight exactly
_BACKBONE = re.compile(r'patch_embed\.|absolute_pos_embed$|stages\.\d+\.|norm\d+\.')
_CLASSIFIER = re.compile(r'(^|\.)(head|head\.fc|classifier)\.weight')
_DETECTOR = re.compile(r'(^|\.)bbox_head\.(\d+\.)?fc_cls\.weight')  # one class more: background


@dataclass(frozen=True)
class Inspection:
    """The content of a checkpoint.

    Attributes:
        weights: the backbone's.
        variant: its shape.
        classes: of the classifier or detector around it; None if there is none, or it is unknown.
        kind: 'backbone', 'classifier' or 'detector'.
        parameters: numbers in the backbone.
    """

    weights: SwinWeights
    variant: Variant
    classes: Optional[int]
    kind: str
    parameters: int

    def rows(self) -> List[Tuple[str, str]]:
        """Return (what, value) for a table."""
        variant = self.variant
        windows = [' x '.join(map(str, window)) if window else 'unknown' for window in variant.windows]
        if len(set(windows)) == 1:
            windows = windows[:1]
        return [
            ('weights', f'{self.kind}, in {self.weights.where}'),
            ('variant', str(variant)),
            ('window' if TABLE in variant.position_parameters else 'position learned for window', ', '.join(windows)),
            ('patch', ' x '.join(map(str, variant.patch_size))),
            ('image channels', str(variant.in_channels)),
            ('absolute position', 'none' if variant.absolute_grid is None else
             'for images of ' + ' x '.join(map(str, variant.image_size))),
            ('output norms', ', '.join(sorted({key.split('.')[0] for key in self.weights.state_dict
                                               if re.match(r'norm\d', key)})) or 'none'),
            ('classes', 'none' if self.classes is None else str(self.classes)),
            ('parameters', f'{self.parameters:,} in the backbone'),
        ]


def inspect_checkpoint(checkpoint: Mapping[str, Any]) -> Inspection:
    """Describe a checkpoint from its keys and shapes.

    Args:
        checkpoint: as read by :func:`~swin_pos_det.checkpoints.load_checkpoint_file`.

    Raises:
        ValueError: if there is no Swin backbone in it.
    """
    weights = read_weights(checkpoint)
    variant = describe_weights(weights.state_dict, weights.windows, weights.grid, weights.position)
    if variant is None:
        raise SettingError('the Swin backbone in it has no patch embedding')
    state_dict = unwrap(checkpoint)[1]
    kind, classes = 'backbone', None
    for key, value in state_dict.items():
        if _CLASSIFIER.search(key) and getattr(value, 'dim', int)() == 2:
            kind, classes = 'classifier', value.shape[0]
        elif _DETECTOR.search(key):
            kind, classes = 'detector', value.shape[0] - 1
            break
        elif re.match(r'(module\.)?(neck|rpn_head|bbox_head|roi_head)\.', key):
            kind = 'detector'
    numbers = sum(value.numel() for value in weights.state_dict.values())
    return Inspection(weights, variant, classes, kind, numbers)


def incompatibilities(checkpoint: Mapping[str, Any], backbone: nn.Module) -> Optional[str]:
    """Return why a checkpoint does not fit a ``SwinPosTransformer``, or None; tries to load it into the backbone."""
    try:
        backbone.load_state_dict(checkpoint, strict=False)
    except ValueError as error:
        return str(error)
    return None


def convert(weights: SwinWeights, to: str = 'mmdet', window: Optional[Union[int, Pair]] = None,
            mode: str = 'bicubic') -> Dict[str, Tensor]:
    """Return the weights of a backbone in a library's own names and layout.

    Args:
        weights: of :func:`~swin_pos_det.checkpoints.read_weights`.
        to: one of ``EXPORTS``: 'mmdet', 'timm' (``SwinTransformer(num_classes=0)``), 'hf' (``SwinBackbone``),
            'torchvision' or 'microsoft' (the detection backbone); of a Swin V2 'mmdet' is this project's
            ``SwinPosTransformerV2``, and the others are their V2.
        window: resample the tables to it, (h, w) or the side of a square one. Default: unchanged. A Swin V2 has no
            tables; there it is the window that 'microsoft' and 'torchvision' make their buffers for.
        mode: the resampling, see :func:`~swin_pos_det.layers.resample_table`.

    Raises:
        ValueError: for an unknown format, weights that are not finite floating-point numbers, a backbone that other
            libraries do not have, or tables of an unknown window.
    """
    if to not in EXPORTS:
        raise SettingError(f'unknown format {to!r}: write one of {", ".join(EXPORTS)}')
    variant = describe_weights(weights.state_dict, weights.windows, weights.grid, weights.position)
    if variant is None:
        raise SettingError('the Swin backbone in it has no patch embedding')
    for name, value in weights.state_dict.items():
        check_value(name, value, _LIKE)
    target = None if window is None else (window, window) if isinstance(window, int) else tuple(window)
    state_dict = {key: value for key, value in weights.state_dict.items() if _BACKBONE.match(key)}
    if to == 'mmdet' and TABLE not in variant.position_parameters:
        exported = state_dict  # with our own names, which no other library has
    elif to != 'mmdet' and not _others_have(variant, state_dict):
        raise SettingError(f'{EXPORTS[to].title} Swin has no such model: position={variant.position!r}, '
                           f'attention={variant.attention!r}, norm_order={variant.norm_order!r}')
    elif TABLE not in variant.position_parameters:
        exported = _to_v2(state_dict, variant, to, target)
    else:
        exported = _to_v1(state_dict, variant, to, target, mode)
    return {key: value.contiguous() for key, value in exported.items()}


def windows_after(variant: Variant, window: Optional[Union[int, Pair]] = None) -> Optional[List[Pair]]:
    """Return the windows of each stage's position parameters after :func:`convert`; None if they are unknown.

    Args:
        variant: of the weights.
        window: as given to :func:`convert`. The network of a Swin V2 stays the same at any window.
    """
    if TABLE in variant.position_parameters and window is not None:
        return [(window, window) if isinstance(window, int) else tuple(window)] * len(variant.windows)
    return None if None in variant.windows else list(variant.windows)


def _others_have(variant: Variant, state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether other libraries have the model: Swin with its table or V2 with its network, and no other scheme.

    Parameters alone do not show it: 'relative_only' and 'rope_axial+relative' have those of 'relative'.
    """
    scheme, name = {1: ('relative', TABLE), 2: ('log_cpb', 'cpb_mlp')}.get(variant.version, (None, None))
    found = {part for key in state_dict for part in key.split('.')}.intersection(parameters_of_position())
    schemes = {scheme} if variant.position is None else set(variant.position.split('+'))
    return found - {'absolute_pos_embed'} == {name} and schemes - {'absolute'} == {scheme}


def _to_v1(state_dict: Dict[str, Tensor], variant: Variant, to: str, target: Optional[Pair],
           mode: str) -> Dict[str, Tensor]:
    if None in variant.windows:
        raise SettingError('the checkpoint does not show the windows of its tables')
    windows = list(variant.windows)
    if target is not None:
        for key, value in state_dict.items():
            if key.endswith(TABLE):
                state_dict[key] = resample_table(value, windows[int(key.split('.')[1])], target, mode)
        windows = [target] * len(windows)
    embedding = state_dict.get('absolute_pos_embed')
    if to == 'microsoft' and embedding is not None and embedding.dim() == 3:
        if variant.absolute_grid is None:
            raise SettingError('the Swin authors have an absolute position embedding as a map; the checkpoint '
                               f'does not show the grid of its {embedding.shape[1]} tokens')
        state_dict['absolute_pos_embed'] = embedding.transpose(1, 2).unflatten(2, variant.absolute_grid)
    return EXPORTS[to].from_mmdet(state_dict, windows)


def _to_v2(state_dict: Dict[str, Tensor], variant: Variant, to: str, target: Optional[Pair]) -> Dict[str, Tensor]:
    if 'absolute_pos_embed' in state_dict:
        raise SettingError(f"{EXPORTS_V2[to].title} Swin V2 is exported without an absolute position embedding, these "
                           'weights have one')
    learned = list(variant.windows)
    if variant.qkv_bias and variant.key_bias and to != 'mmdet':
        raise SettingError(f'{EXPORTS_V2[to].title} Swin V2 has no bias of keys, these weights have one')
    if to in ('microsoft', 'torchvision') and None in learned:
        raise SettingError('the checkpoint does not say by which window offsets were measured in training, which is in '
                           f'{EXPORTS_V2[to].title} files: load it into a SwinPosTransformerV2 with '
                           'pretrained_window_sizes and export what that saves')
    return EXPORTS_V2[to].from_mmdet(state_dict, [target] * len(learned) if target else learned, learned)


def save_weights(state_dict: Mapping[str, Tensor], path: Union[str, os.PathLike], to: str = 'mmdet',
                 windows: Optional[Sequence[Pair]] = None, grid: Optional[Sequence[int]] = None,
                 position: Optional[str] = None) -> None:
    """Write weights in the container of a library's own files, atomically.

    Args:
        state_dict: of :func:`convert`.
        path: of the file; ``.safetensors`` writes that format.
        to: the library, as in :func:`convert`.
        windows: of the stages' position parameters. Shapes do not show this and the following arguments; they are
            noted beside the weights for 'mmdet'.
        grid: (h, w) in patches, of the absolute position embedding.
        position: the name of the position scheme.

    Raises:
        CheckpointError: if writing fails.
    """
    path = Path(path)
    notes = {TABLE_WINDOWS: windows and [list(window) for window in windows], ABSOLUTE_GRID: grid and list(grid),
             POSITION: position}
    notes = {name: value for name, value in notes.items() if value and to == 'mmdet'}
    with atomic_write(path) as draft:
        if path.suffix == '.safetensors':
            from safetensors.torch import save
            draft.write_bytes(save(
                {key: value.clone() for key, value in state_dict.items()},
                metadata={'format': 'pt', **{name: json.dumps(value) for name, value in notes.items()}}))
            return
        inner = OrderedDict(state_dict)
        if notes:
            inner._metadata = OrderedDict({'': notes})
        stream = io.BytesIO()  # to the disk in one step: torch does not say why it cannot write, such as a full disk
        torch.save({_CONTAINERS[to]: inner} if to in _CONTAINERS else inner, stream)
        draft.write_bytes(stream.getbuffer())
