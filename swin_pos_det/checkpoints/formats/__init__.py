"""The formats of Swin checkpoints, one module each, detected from their keys alone."""
from __future__ import annotations

import re
from typing import Any, Iterable, List, Optional, Tuple

from .base import COORDINATES, DERIVED, INDEX, TABLE, Format, StateDict, learned_side
from .hugging_face import HUGGING_FACE, HUGGING_FACE_V2
from .microsoft import MICROSOFT, MICROSOFT_V2
from .openmmlab import MMPRETRAIN_V2, OPENMMLAB, SWIN_POS_V2
from .timm import TIMM, TIMM_V2
from .torchvision import TORCHVISION, TORCHVISION_V2

# In this order: Swin V2 has the keys of Swin and more; the Swin authors' files have the signature of timm's, which have
# more to tell them by; and so has our V2 that of mmpretrain's.
FORMATS = (MMPRETRAIN_V2, SWIN_POS_V2, TIMM_V2, MICROSOFT_V2, HUGGING_FACE_V2, TORCHVISION_V2,
           OPENMMLAB, TIMM, MICROSOFT, HUGGING_FACE, TORCHVISION)
EXPORTS = {found.name: found for found in FORMATS if found.from_mmdet is not None and found.version == 1}
EXPORTS_V2 = {found.name: found for found in FORMATS if found.from_mmdet is not None and found.version == 2}

_LONGEST_KEY = 1000  # letters; no library has longer ones

# timm's swinv2_cr_*, which are another model: their position network sees other coordinates, their norms differ.
_CR = re.compile(r'\.attn\.meta_mlp\.')

__all__ = ['COORDINATES', 'DERIVED', 'EXPORTS', 'EXPORTS_V2', 'FORMATS', 'INDEX', 'TABLE', 'Format', 'StateDict',
           'candidates', 'is_swinv2_cr', 'learned_side', 'detect_format']


def detect_format(keys: Iterable[Any]) -> Optional[Tuple[Format, str]]:
    """Detect which library's Swin backbone the keys belong to.

    Args:
        keys: of a state dict.

    Returns:
        The first of :func:`candidates`; None if no Swin backbone is among them.
    """
    return next(iter(candidates(keys)), None)


def candidates(keys: Iterable[Any]) -> List[Tuple[Format, str]]:
    """Return every Swin backbone among the keys, the likeliest first.

    That is one called ``backbone``, then the one with the shortest prefix (an encoder before its momentum encoder),
    then the first by name.

    Args:
        keys: of a state dict; other keys than strings are ignored.

    Returns:
        For each its format, and the prefix of its keys (``'backbone.'``, ``'module.encoder.'``, ``''``, ..).
    """
    keys = [key for key in keys if isinstance(key, str) and len(key) <= _LONGEST_KEY]
    found = {}
    for order, candidate in enumerate(FORMATS):
        matches = (match for match in map(candidate.signature.fullmatch, keys) if match)
        prefixes = dict.fromkeys(match[1] for match in matches if match[1] not in found)
        without = {key[:match.start()] for key in keys * bool(prefixes) for match in candidate.excluded.finditer(key)}
        found.update((prefix, order) for prefix in prefixes if prefix not in without)
    ranked = sorted(found, key=lambda prefix: (not re.search(r'(^|\.)backbone\.$', prefix), len(prefix), prefix))
    return [(FORMATS[found[prefix]], prefix) for prefix in ranked]


def is_swinv2_cr(keys: Iterable[str]) -> bool:
    """Return whether the keys are those of timm's ``swinv2_cr_*``, which are not the Swin authors' V2."""
    return any(isinstance(key, str) and _CR.search(key) for key in keys)
