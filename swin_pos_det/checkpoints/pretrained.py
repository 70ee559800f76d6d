"""Pretrained weights for a backbone: unpack, load through the backbone's own hook, and check that nothing is left."""
from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Dict, Mapping, Optional

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

# Where the weights are inside a checkpoint, by who made it: mmengine, the Swin authors.
_CONTAINERS = ('state_dict', 'model')


def backbone_state_dict(checkpoint: Mapping[str, Any], prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """The weights of the backbone in a checkpoint of a backbone, classifier or detector.

    Args:
        checkpoint: as read from its file.
        prefix: of the backbone's keys. Default: ``'backbone.'`` if there are such keys, else none.

    Returns:
        The state dict, without ``module.`` (DDP) and without the prefix.

    Raises:
        ValueError: if there are no keys with the prefix asked for.
    """
    for container in _CONTAINERS:
        if isinstance(checkpoint.get(container), Mapping):
            checkpoint = checkpoint[container]
            break
    metadata = getattr(checkpoint, '_metadata', {})
    state_dict = {re.sub(r'^module\.', '', key): value for key, value in checkpoint.items()}
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in state_dict) else ''
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    found = OrderedDict(
        (key[len(prefix):], value) for key, value in state_dict.items() if key.startswith(prefix))
    # As torch keeps it: what the backbone noted about itself, now under the empty prefix.
    found._metadata = {'': metadata.get(prefix[:-1], metadata.get(f'module.{prefix}'[:-1], {}))}
    if not found:
        raise ValueError(f'the checkpoint has no keys that start with {prefix!r}; it has, for instance, '
                         f'{sorted(state_dict)[:3]}')
    return found


def load_pretrained(backbone: nn.Module, filename: str, prefix: Optional[str] = None) -> None:
    """Load pretrained weights into a backbone.

    Args:
        backbone: a ``SwinPosTransformer``.
        filename: path or URL.
        prefix: of the backbone's keys, see :func:`backbone_state_dict`.

    Raises:
        CheckpointError: if the file cannot be read.
        ValueError: if it does not fit, see :func:`~swin_pos_det.checkpoints.adapt_state_dict`.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location='cpu', logger='current')
    try:
        new, unused = backbone.load_state_dict(backbone_state_dict(checkpoint, prefix), strict=False)
    except ValueError as error:
        raise ValueError(f'{filename} does not fit {type(backbone).__name__}: {error}') from error
    print_log(
        f'{type(backbone).__name__}: loaded {len(backbone.state_dict()) - len(new)} tensors from {filename}; '
        f'new: {new or "none"}; unused: {unused or "none"}',
        logger='current')
