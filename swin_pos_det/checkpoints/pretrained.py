"""Pretrained weights for a backbone, from a file or URL."""
from __future__ import annotations

from collections import OrderedDict
from typing import Any, Mapping, Optional

from torch import nn

from ..errors import SettingError
from .schemes import read_checkpoint
from .weights import unwrap


def load_pretrained(backbone: nn.Module, filename: str, prefix: Optional[str] = None) -> None:
    """Load pretrained weights into a backbone.

    Args:
        backbone: a ``SwinPosTransformer``.
        filename: path or URL.
        prefix: take only the keys under it. Default: wherever a Swin backbone is found.

    Raises:
        CheckpointError: if the file cannot be read.
        ValueError: if it does not fit, see :func:`~swin_pos_det.checkpoints.adapt_state_dict`.
    """
    checkpoint = read_checkpoint(filename, map_location='cpu')
    try:
        backbone.load_state_dict(_under(prefix, checkpoint) if prefix else checkpoint, strict=False)
    except ValueError as error:
        raise SettingError(f'{filename} does not fit {type(backbone).__name__}: {error}') from error


def _under(prefix: str, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a checkpoint's weights whose keys start with ``prefix``, without it."""
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    state_dict = unwrap(checkpoint)[1]
    part = OrderedDict((key[len(prefix):], value) for key, value in state_dict.items() if key.startswith(prefix))
    if not part:
        raise SettingError(f'it has no keys that start with {prefix!r}; it has, for instance, {sorted(state_dict)[:3]}')
    part._metadata = {'': getattr(state_dict, '_metadata', {}).get(prefix[:-1], {})}
    return part
