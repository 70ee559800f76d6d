"""The formats of Swin checkpoints, one module each, told apart by their keys alone."""
from __future__ import annotations

import re
from typing import Iterable, Optional, Tuple

from .base import DERIVED, INDEX, TABLE, Format, StateDict
from .hugging_face import HUGGING_FACE
from .microsoft import MICROSOFT
from .openmmlab import OPENMMLAB
from .timm import TIMM
from .torchvision import TORCHVISION

# The Swin authors' after timm's, which has the same signature and more to tell it by.
FORMATS = (OPENMMLAB, TIMM, MICROSOFT, HUGGING_FACE, TORCHVISION)
EXPORTS = {found.name: found for found in FORMATS if found.from_mmdet is not None}

# Swin V2 by any library: continuous position bias, or the temperature of its cosine attention.
_SECOND_VERSION = re.compile(r'\.(cpb_mlp|logit_scale|continuous_position_bias_mlp)(\.|$)')

__all__ = ['DERIVED', 'EXPORTS', 'FORMATS', 'INDEX', 'OPENMMLAB', 'TABLE', 'Format', 'StateDict', 'is_second_version',
           'recognise']


def recognise(keys: Iterable[str]) -> Optional[Tuple[Format, str]]:
    """Which library's Swin backbone the keys are of.

    Args:
        keys: of a state dict.

    Returns:
        The format, and what stands before the backbone's keys (``'backbone.'``, ``'module.encoder.'``, ``''``, ..).
        Of several backbones in a file (a momentum encoder, a teacher) the one with the shortest prefix, then the
        first by name. None if no Swin backbone is among them.
    """
    keys = list(keys)
    found = []
    for order, candidate in enumerate(FORMATS):
        for key in keys:
            match = candidate.signature.fullmatch(key)
            if match and not _has(keys, match[1], candidate.excluded):
                found.append((len(match[1]), match[1], order))
    if not found:
        return None
    _, prefix, order = min(found)
    return FORMATS[order], prefix


def _has(keys: Iterable[str], prefix: str, pattern: re.Pattern) -> bool:
    return any(key.startswith(prefix) and pattern.match(key[len(prefix):]) for key in keys)


def is_second_version(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a Swin V2."""
    return any(_SECOND_VERSION.search(key) for key in keys)
