"""Recognise the layout of a folder of detection data, and read it as COCO annotations for training and validation."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

from ...errors import MissingFileError
from .coco import read_coco
from .parts import PARTS, LayoutError, Part, split, use_same_classes
from .voc import read_voc
from .yolo import read_yolo

__all__ = ['PARTS', 'LayoutError', 'Part', 'read_layout', 'split', 'use_same_classes']

_READERS = {'COCO': read_coco, 'YOLO': read_yolo, 'Pascal VOC': read_voc}
_OF_FILES = {'.json': ('COCO', ), '.yaml': ('YOLO', ), '.yml': ('YOLO', )}
_KNOWN = ('COCO (train/ and val/, or train2017/ and val2017/, with annotations/*.json; _annotations.coco.json beside '
          'the images; one .json), YOLO (images/ and labels/ with data.yaml or classes.txt), Pascal VOC '
          '(Annotations/*.xml with JPEGImages/)')


def read_layout(data: Path) -> tuple[str, dict[str, Part]]:
    """Read a data set in the first layout that fits: COCO, YOLO, Pascal VOC.

    Args:
        data: a folder, a COCO file to be split, or a YAML file of YOLO.

    Returns:
        The name of the layout, and ``train`` and perhaps ``val``; see :func:`split`.

    Raises:
        MissingFileError: if there is no such file or folder.
        LayoutError: if no layout fits; the message says what was found.
    """
    if not data.exists():
        raise MissingFileError(f'there is no file or folder {data}')
    readers = _READERS
    if data.is_file():
        readers = {name: _READERS[name] for name in _OF_FILES.get(data.suffix, ())}
    for name, read in readers.items():
        parts = read(data)
        if parts.get('train'):
            return name, parts
    raise LayoutError(f'{data} {_found(data)}, which is none of the known layouts: {_KNOWN}')


def _found(data: Path) -> str:
    if data.is_file():
        return f'is a {data.suffix or "plain"} file'
    folders = sorted(path.name for path in data.iterdir() if path.is_dir())
    files = Counter(path.suffix or path.name for path in data.rglob('*') if path.is_file())
    shown = [f'{name}/' for name in folders[:5]] + [f'{number} {ending} files' if number > 1 else f'1 {ending} file'
                                                    for ending, number in files.most_common(5)]
    return f'holds {", ".join(shown) or "nothing"}'
