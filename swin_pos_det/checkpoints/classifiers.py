"""A pretrained classifier's head and final norm, for models of mmpretrain: other libraries call them otherwise."""
from __future__ import annotations

from collections import OrderedDict
from typing import Any, Dict, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from .formats import candidates

HEAD = 'head.fc.'  # of mmpretrain's LinearClsHead
# In timm's and mmpretrain's, in torchvision's, the Swin authors' and older timm's, and in Hugging Face's files.
_HEADS = (HEAD, 'head.', 'classifier.')
_FINAL_NORMS = ('norm.', 'layernorm.')


def place_classifier(classifier: nn.Module, state_dict: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Rename a classifier's head and final norm as mmpretrain's ``ImageClassifier`` calls them.

    A detector has no use for either, so nothing is changed for models without ``head.fc``. A head with another number
    of classes keeps its name.

    Args:
        classifier: unwrapped.
        state_dict: about to be loaded into it.

    Returns:
        The same, or a new one; tensors are shared.
    """
    fc = getattr(getattr(classifier, 'head', None), 'fc', None)
    found = candidates(state_dict) if isinstance(fc, nn.Linear) and isinstance(state_dict, Mapping) else []
    if not found:
        return state_dict
    origin = found[0][1]
    outer = origin[:origin[:-1].rfind('.') + 1]  # of Hugging Face's 'swin.': the head is beside it
    stages = len(getattr(getattr(classifier, 'backbone', None), 'stages', ()))
    renamed: Dict[str, str] = {}
    for part, own in fc.named_parameters():
        names = [before + head + part for before in (origin, outer) for head in _HEADS]
        renamed.update((name, HEAD + part) for name in names if _shape(state_dict, name) == own.shape)
        renamed.update((f'{origin}{norm}{part}', f'{origin}norm{stages - 1}.{part}') for norm in _FINAL_NORMS)
    if all(renamed.get(key, key) == key for key in state_dict):
        return state_dict
    placed = OrderedDict((renamed.get(key, key), value) for key, value in state_dict.items())
    placed._metadata = getattr(state_dict, '_metadata', None) or {}
    print_log('the final norm of the classifier is loaded, its head '
              + ('too' if HEAD + 'weight' in placed else "is not, as it has another number of classes"),
              logger='current')
    return placed


def _shape(state_dict: Mapping[Any, Any], key: str) -> Any:
    value = state_dict.get(key)
    return value.shape if isinstance(value, Tensor) else None
