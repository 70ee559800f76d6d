"""Pretrained weights for a backbone: unpack, load through the backbone's own hook, and check that nothing is left."""
from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Optional

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

# Where the weights are inside a checkpoint, by who made it: mmengine, the Swin authors.
_CONTAINERS = ('state_dict', 'model')
_OUTPUT_NORM = re.compile(r'norm\d+\.(weight|bias)')


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
    state_dict = {re.sub(r'^module\.', '', key): value for key, value in checkpoint.items()}
    if prefix is None:
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in state_dict) else ''
    elif prefix and not prefix.endswith('.'):
        prefix += '.'
    found = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
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
        ValueError: if a parameter would stay random, or shapes do not fit. Norms of the outputs, which classifiers do
            not have, may be new.
    """
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location='cpu', logger='current')
    state_dict = backbone_state_dict(checkpoint, prefix)
    try:
        missing, unused = backbone.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:  # torch's list of shapes that differ
        raise ValueError(f'{filename} does not fit {type(backbone).__name__}: {error}') from error
    new = [key for key in missing if _OUTPUT_NORM.fullmatch(key)]
    random = [key for key in missing if key not in new]
    if random:
        raise ValueError(
            f'{filename} has no weights for {len(random)} parameters of {type(backbone).__name__}, such as '
            f'{random[:3]}; they would stay random. It has, for instance, {sorted(state_dict)[:3]}')
    loaded = len(backbone.state_dict()) - len(new)
    print_log(
        f'{type(backbone).__name__}: loaded {loaded} tensors from {filename}; new: {new or "none"}; '
        f'unused: {unused or "none"}',
        logger='current')
