"""Finding the weights of a Swin backbone in whatever a checkpoint's file holds."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from torch import Tensor

from .formats import DERIVED, OPENMMLAB, Format, is_second_version, recognise

# Averaged weights, which are the better ones, by their names in timm's and torchvision's training checkpoints.
# MMEngine needs none: its EMAHook saves the averaged weights as the state dict.
AVERAGED = ('state_dict_ema', 'model_ema')
CONTAINERS = AVERAGED + ('state_dict', 'model')

# In a state dict's metadata: the windows of the stages' tables; the file that a module's weights are to be found in.
TABLE_WINDOWS = 'table_window_sizes'
WHOLE_FILE = 'swin_pos_whole_file'


@dataclass(frozen=True)
class SwinWeights:
    """The weights of a backbone, in mmdet's names.

    Attributes:
        format: whose names they had.
        prefix: what stood before these names, such as ``'module.backbone.'``.
        container: the entry of the checkpoint that held them, or ``''``.
        state_dict: parameters alone; derived buffers are dropped.
        windows: of each stage's tables, where that was noted with the weights.
        unused: keys beside the backbone's, as they were called.
    """

    format: Format
    prefix: str
    container: str
    state_dict: Dict[str, Tensor]
    windows: Optional[Sequence[Sequence[int]]]
    unused: List[str]

    @property
    def foreign(self) -> bool:
        """Whether the keys had to be changed."""
        return self.format is not OPENMMLAB or self.prefix != '' or self.container != ''

    @property
    def where(self) -> str:
        """Where they were found, for messages."""
        parts = [f'in {self.container!r}'] * bool(self.container) + [f'under {self.prefix!r}'] * bool(self.prefix)
        return ', '.join([f'{self.format.title} names', *parts])


def unwrap(checkpoint: Mapping[str, Any]) -> Tuple[str, Mapping[str, Any]]:
    """The entry of a checkpoint that holds its weights.

    Returns:
        The entry's name and the entry; ``''`` and the checkpoint itself where it is a state dict, or holds none.
    """
    if recognise(checkpoint) is not None:
        return '', checkpoint
    inner = {name: value for name, value in checkpoint.items() if isinstance(value, Mapping)}
    for name in sorted(inner, key=lambda name: CONTAINERS.index(name) if name in CONTAINERS else len(CONTAINERS)):
        if recognise(map(str, inner[name])) is not None:
            return name, inner[name]
    # No Swin: where the weights should have been, so that a message can tell what was there.
    return next(((name, inner[name]) for name in CONTAINERS if name in inner), ('', checkpoint))


def read_weights(checkpoint: Mapping[str, Any], windows: Optional[Sequence[Sequence[int]]] = None,
                 metadata: Optional[Mapping[str, Any]] = None) -> SwinWeights:
    """Find a Swin backbone in a checkpoint, a state dict, or a part of one.

    Args:
        checkpoint: of a backbone, a classifier or a detector, by any of the libraries in :mod:`.formats`.
        windows: of the stages' tables, where they are known.
        metadata: of the state dict; default: that which ``checkpoint`` carries.

    Raises:
        ValueError: if there is none.
    """
    container, state_dict = unwrap(checkpoint)
    found = recognise(state_dict)
    if found is None:
        keys = sorted(map(str, state_dict))
        if is_second_version(keys):
            raise ValueError('these are weights of a Swin V2, whose attention is another one; the model is a Swin V1')
        raise ValueError(f'no Swin backbone is among the {len(keys)} keys, which are, for instance, {keys[:3]}')
    layout, prefix = found
    own = {}
    for key, value in state_dict.items():
        if key.startswith(prefix):
            own[key[len(prefix):]] = value
        elif layout.beside and layout.beside in key:
            own[key[key.index(layout.beside):]] = value
    if is_second_version(own):
        raise ValueError(f'these are weights of a Swin V2 ({layout.title} names), whose attention is another one; '
                         'the model is a Swin V1')
    kept = {key: value for key, value in own.items() if not key.endswith(DERIVED)}
    converted = layout.to_mmdet(kept)
    if windows is None:
        metadata = getattr(state_dict, '_metadata', {}) if metadata is None or container else metadata
        windows = metadata.get(prefix[:-1], {}).get(TABLE_WINDOWS)
    unused = [key for key in state_dict
              if not key.startswith(prefix) and not (layout.beside and layout.beside in key)]
    return SwinWeights(layout, prefix, container, converted, windows, unused)


def note_whole_file(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Let the backbone of a detector find the weights of a bare backbone or a classifier.

    MMEngine hands each module the keys under its own name only, and such a file has none under ``backbone.``. Beside
    the keys goes metadata for each module: there the file is noted, and nothing else is changed. So anyone else who
    loads the file gets what is in it.

    Args:
        checkpoint: as read.

    Returns:
        The same, or an equal one with the note if it has a Swin backbone that is not under ``backbone.``.
    """
    container, state_dict = unwrap(checkpoint)
    found = recognise(state_dict)
    if found is None or 'backbone.' in found[1]:
        return checkpoint
    # MMEngine looks in 'state_dict', or takes the checkpoint itself.
    outer = checkpoint['state_dict'] if isinstance(checkpoint.get('state_dict'), Mapping) else checkpoint
    noted = OrderedDict(outer)
    noted._metadata = OrderedDict(getattr(outer, '_metadata', {}))
    noted._metadata['backbone'] = {**noted._metadata.get('backbone', {}), WHOLE_FILE: checkpoint}
    if outer is checkpoint:
        return noted
    checkpoint['state_dict'] = noted
    return checkpoint
