"""The formats of Swin checkpoints, one module each, told apart by their keys alone."""
from __future__ import annotations

import re
from typing import Any, Iterable, List, Optional, Tuple

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

__all__ = ['DERIVED', 'EXPORTS', 'FORMATS', 'INDEX', 'OPENMMLAB', 'TABLE', 'Format', 'StateDict', 'candidates',
           'is_second_version', 'recognise']


def recognise(keys: Iterable[Any]) -> Optional[Tuple[Format, str]]:
    """Which library's Swin backbone the keys are of.

    Args:
        keys: of a state dict.

    Returns:
        The first of :func:`candidates`; None if no Swin backbone is among them.
    """
    return next(iter(candidates(keys)), None)


def candidates(keys: Iterable[Any]) -> List[Tuple[Format, str]]:
    """Every Swin backbone among the keys, the likeliest first.

    That is one called ``backbone``, then the one with the shortest prefix (an encoder before its momentum encoder),
    then the first by name.

    Args:
        keys: of a state dict; what is no string is passed over.

    Returns:
        For each its format, and what stands before its keys (``'backbone.'``, ``'module.encoder.'``, ``''``, ..).
    """
    keys = [key for key in keys if isinstance(key, str)]
    found = {}
    for order, candidate in enumerate(FORMATS):
        for key in keys:
            match = candidate.signature.fullmatch(key)
            if match and match[1] not in found and not _has(keys, match[1], candidate.excluded):
                found[match[1]] = order
    ranked = sorted(found, key=lambda prefix: (not re.search(r'(^|\.)backbone\.$', prefix), len(prefix), prefix))
    return [(FORMATS[found[prefix]], prefix) for prefix in ranked]


def _has(keys: Iterable[str], prefix: str, pattern: re.Pattern) -> bool:
    return any(key.startswith(prefix) and pattern.match(key[len(prefix):]) for key in keys)


def is_second_version(keys: Iterable[str]) -> bool:
    """Whether the keys are those of a Swin V2."""
    return any(isinstance(key, str) and _SECOND_VERSION.search(key) for key in keys)
