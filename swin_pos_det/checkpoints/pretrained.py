"""Pretrained weights for a backbone, from a file or URL."""
from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Iterator, Mapping, Optional

from mmengine.logging import print_log
from torch import nn

from ..errors import SettingError
from .schemes import read_checkpoint
from .weights import unwrap

_following: ContextVar[Optional[str]] = ContextVar('following', default=None)


@contextmanager
def overwritten_by(checkpoint: Optional[str]) -> Iterator[None]:
    """Skip pretrained weights of backbones in this context, as a checkpoint is loaded after them.

    Args:
        checkpoint: its name, for the log; None skips nothing.
    """
    token = _following.set(checkpoint)
    try:
        yield
    finally:
        _following.reset(token)


def load_pretrained(backbone: nn.Module, filename: str, prefix: Optional[str] = None) -> None:
    """Load pretrained weights into a backbone, unless they would be overwritten (see :func:`overwritten_by`).

    Args:
        backbone: a ``SwinPosTransformer``.
        filename: path or URL.
        prefix: take only the keys under it. Default: that of the Swin backbone found.

    Raises:
        CheckpointError: if the file is unreadable.
        ValueError: if it does not fit, see :func:`~swin_pos_det.checkpoints.adapt_state_dict`.
    """
    if _following.get() is not None:
        print_log(f'{filename} is not loaded: {_following.get()} holds all weights of {type(backbone).__name__}',
                  logger='current')
        return
    checkpoint = read_checkpoint(filename, map_location='cpu')
    try:
        backbone.load_state_dict(_under(prefix, checkpoint) if prefix else checkpoint, strict=False)
    except ValueError as error:
        raise SettingError(f'{filename} does not fit {type(backbone).__name__}: {error}') from error


def _under(prefix: str, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a checkpoint's weights whose keys start with ``prefix``, without it."""
    prefix = prefix if prefix.endswith('.') else f'{prefix}.'
    state_dict = unwrap(checkpoint)[1]
    part = OrderedDict((key[len(prefix):], value) for key, value in state_dict.items() if key.startswith(prefix))
    if not part:
        raise SettingError(f'it has no keys that start with {prefix!r}; it has, for instance, {sorted(state_dict)[:3]}')
    part._metadata = {'': getattr(state_dict, '_metadata', {}).get(prefix[:-1], {})}
    return part
